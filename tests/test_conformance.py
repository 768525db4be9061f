"""Every first-party component keeps what its interface promises."""

from pathlib import Path

import datasets
import pytest
from click.testing import CliRunner

from toolkit import Objective, PluginError, TimestepSampler, testing
from toolkit.cli import main
from toolkit.registry import load as plugins
from toolkit.registry.discover import OWN, discover
from toolkit.registry.registry import Component
from toolkit.testing.package import CORE, cases_of

REGISTRY = plugins.load().registry.copy()
OURS = [(one.owner, one.module) for one in discover() if one.owner.distribution == OWN]
FOUND = [cases_of(owner, module, REGISTRY) for owner, module in ((CORE, ""), *OURS)]
CASES = [case for cases, _ in FOUND for case in cases]
COVERED = {
    (case.kind, case.name) for case in CASES
}  # also by a case of another plugin, which has what it takes
WITHOUT: list[tuple[Component, str]] = [
    (component, why)
    for _, without in FOUND
    for component, why in without
    if (component.kind, component.name) not in COVERED
]


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.slow  # all components together
@testing.parametrize_with_checks([case for case in CASES if case.kind is not Objective])
def test_conformance(case: testing.Case, check: testing.Check) -> None:
    check(case)


@pytest.mark.slow  # each check is a few small runs
@testing.parametrize_with_checks([case for case in CASES if case.kind is Objective])
def test_conformance_of_objectives(case: testing.Case, check: testing.Check) -> None:
    check(case)


def test_no_component_of_a_covered_kind_is_left_without_a_case() -> None:
    left = [(component.name, why) for component, why in WITHOUT if "no checks for this kind" not in why]
    assert left == []
    kinds = {component.kind.__name__ for component, _ in WITHOUT}
    assert kinds == {
        "Optimizer", "LRSchedule", "ScalarSchedule", "Importer", "FeatureExtractor", "Layout", "Weighting",
        "Guidance",
    }  # fmt: skip


def test_what_is_declared_is_known() -> None:
    """A component may not grow into an exception unnoticed."""
    declared = {(case.name, check) for case in CASES for check in case.declares}
    assert declared == {
        ("consistency", "check_gaussian_is_recovered"),
        ("diffusers", "check_gaussian_is_recovered"),
        ("few_step", "check_gaussian_is_recovered"),
        ("diffusion", "check_folder_round_trip"),
        ("diffusion", "check_eval_draws_nothing"),
        ("diffusion", "check_rows_do_not_leak"),
        ("clamped_ancestral", "check_gaussian_is_recovered"),
        ("ddgan_small_discriminator", "check_rows_do_not_leak"),
        ("ddgan_large_discriminator", "check_rows_do_not_leak"),
        ("gan", "check_micro_batches"),
        ("progressive_gan", "check_micro_batches"),
        ("progressive_discriminator", "check_rows_do_not_leak"),
        ("autoencoder", "check_micro_batches"),
        ("classifier", "check_micro_batches"),
    }


@pytest.mark.parametrize("check", sorted({c.__name__ for checks in testing.CHECKS.values() for c in checks}))
def test_every_check_is_documented(check: str) -> None:
    text = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert f"`{check}`" in text


def test_the_command_line_runs_the_same_checks() -> None:
    result = CliRunner().invoke(main, ["plugin", "test", "importance", "-v"])
    assert result.exit_code == 0, result.output
    assert "passed: TimestepSampler second_moment, check_unbiased" in result.output


def test_a_plugin_that_is_not_installed_is_an_error_of_the_user() -> None:
    result = CliRunner().invoke(main, ["plugin", "test", "importanc"])
    assert result.exit_code == 2
    assert "error: no plugin 'importanc' is installed. Did you mean 'importance'?" in result.output


def test_a_case_cannot_declare_a_check_that_there_is_not() -> None:
    with pytest.raises(PluginError, match="declares 'check_nothing', which is none of"):
        testing.checks_for(testing.Case(TimestepSampler, "uniform", declares={"check_nothing": "because"}))
