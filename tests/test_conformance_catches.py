"""Each check of the conformance kit fails on a component that is broken in its way, and says what to do."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import broken_components as broken
import broken_objectives as objectives
import pytest
import torch
from click.testing import CliRunner
from small_runs import install
from torch import Tensor, nn

from toolkit import (
    DataSource,
    Denoiser,
    DenoisingLoss,
    Encoder,
    Metric,
    NoiseSchedule,
    Objective,
    PluginError,
    Registry,
    Sampler,
    Start,
    TimestepSampler,
    testing,
)
from toolkit.cli import main
from toolkit.registry import load as plugins

# Whatever gives another result in every run cannot be the same for other seeds, or resumed, either.
UNREPEATABLE = ("check_seed_stable", "check_draws_from_torch_alone", "check_exact_resume")
SHORT = {"type": "linear", "num_train_timesteps": 10, "beta_start": 0.1, "beta_end": 0.9}

STRANGER = """
from toolkit import DenoisingLoss, NoiseSchedule, Registry, Sampler, hookimpl
from toolkit.diffusion.samplers import Ancestral

class MeanOfAll(DenoisingLoss):
    def forward(self, prediction, x0, noise):
        return (prediction.noise - noise).square().mean()

class Wide(Ancestral):
    def __init__(self, schedule: NoiseSchedule, width: float) -> None:
        super().__init__(schedule)

@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(DenoisingLoss, "mean_of_all", MeanOfAll)
    registry.add(Sampler, "wide", Wide)
"""
CONFORMANCE = """
from toolkit import DenoisingLoss, Sampler, testing

def cases():
    purpose = dict.fromkeys(["check_one_value_a_row", "check_rows_do_not_leak"], "on purpose")
    return [
        testing.Case(DenoisingLoss, "mean_of_all", declares=purpose),
        testing.Case(Sampler, "wide", {"width": 2.0}),
    ]
"""

Broken = tuple[type, Callable[..., Any], str, str]
BROKEN: tuple[Broken, ...] = (
    (NoiseSchedule, broken.ends_early, "check_limits", "raise the last betas"),
    (NoiseSchedule, broken.flat, "check_snr_falls", r"does not fall from t = \[4.0\]"),
    (NoiseSchedule, broken.noisier, "check_steps_give_the_marginal", "do not add up to `diffuse`"),
    (NoiseSchedule, broken.swapped, "check_posterior_is_bayes", "mean is not that of Bayes' rule"),
    (NoiseSchedule, broken.Uphill, "check_derivatives", "is not the slope of alpha at every t"),
    (NoiseSchedule, broken.Unfinished, "check_grid", "ends with 0.001, not with clean = 0.0"),
    (Sampler, broken.Wide, "check_gaussian_is_recovered", r"covariance of samples is off by \d+%"),
    (Sampler, broken.OfItsOwnMind, "check_seed_stable", r"torch's default generator: draw by noise\(\)"),
    (Sampler, broken.Sociable, "check_batch_invariant", "take no statistic over rows"),
    (Sampler, broken.AsksTwiceAboutPixels, "check_calls", "may not depend on the image"),
    (DenoisingLoss, broken.Column, "check_one_value_a_row", r"shape \(6, 1\) for 6 rows: reduce each row"),
    (DenoisingLoss, broken.Relative, "check_rows_do_not_leak", "take no statistic over dimension 0"),
    (DenoisingLoss, broken.Drawing, "check_pure", "all its randomness is its arguments"),
    (TimestepSampler, broken.Double, "check_draws", "weights are torch.float64: they must be float32"),
    (TimestepSampler, broken.Unweighted, "check_unbiased", r"the weight of t must be 1 / \(T p_t\)"),
    (TimestepSampler, broken.WithNumpy, "check_seed_stable", "draws from numpy.random: draw by torch"),
    (TimestepSampler, broken.Forgetful, "check_state_round_trips", "keep what it learns in buffers"),
    (Denoiser, broken.Precise, "check_output", r"x0 is torch.float64: end with .float\(\)"),
    (Denoiser, broken.Centred, "check_rows_do_not_leak", "a row alone gives another output"),
    (Denoiser, broken.Dicing, "check_eval_draws_nothing", r"draw what sampling needs in latent"),
    (Denoiser, broken.Unsaved, "check_folder_round_trip", "must be a parameter or a buffer"),
    (Denoiser, broken.Secretive, "check_conditional", "but `conditional` is False: set it to True"),
    (Denoiser, broken.Farsighted, "check_flow_map", "but `flow_map` is False: set it to True"),
    (Encoder, broken.OfItsBatch, "check_latents", "depends on the images beside it"),
    (DataSource, broken.CountsFromOne, "check_examples", r"labels run from 1 to 4: they must be 0..3"),
    (DataSource, broken.Sorting, "check_any_order", "must be example indices"),
    (DataSource, broken.Unpicklable, "check_picklable", "keep no handles and no lambdas"),
    (DataSource, broken.Stirring, "check_draws_nothing", "a source is a fixed collection"),
    (DataSource, broken.Leaking, "check_held_out", "100% of the held-out examples are trained on"),
    (Start, broken.Beyond, "check_start", "time is 10: it must be on the path, from -1 to 9"),
    (Start, broken.TooPrecise, "check_draw", "must be float32"),
    (Start, broken.OneForAll, "check_rows_follow_their_generators", "draw row i from generators"),
    (Metric, broken.Infinite, "check_score", "infinite is not finite"),
    (Metric, broken.Moody, "check_same_score_twice", "seed what it draws by an option"),
    (Metric, broken.Meddling, "check_model_is_left_alone", "changes the model that it scores"),
    (Objective, objectives.LogsInfinity, "check_finite", "logs imitate/distance, which are not finite"),
    (Objective, objectives.EveryRunAnother, "check_seed_stable", "keep nothing on the class or module"),
    (Objective, objectives.AsksNumpy, "check_draws_from_torch_alone", "draws from numpy.random: draw"),
    (Objective, objectives.Unfreezes, "check_turns_train_their_own_networks", "leave requires_grad_"),
    (Objective, objectives.Sums, "check_micro_batches", "a loss must be a mean over rows"),
    (Objective, objectives.StartsAnew, "check_state_round_trips", r"buffers \['seen'\] are others"),
    (Objective, objectives.CountsInPython, "check_exact_resume", "must be a buffer of the objective"),
)  # fmt: skip


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = plugins.load().registry.copy()
    for kind, component, check, _ in BROKEN:
        found.add(kind, check, component)
    return found


@pytest.mark.parametrize(
    ("kind", "component", "check", "says"), BROKEN, ids=lambda x: getattr(x, "__name__", "")
)
def test_exactly_the_intended_check_fails(
    kind: type, component: Callable[..., Any], check: str, says: str, registry: Registry
) -> None:
    recipe = objectives.RECIPE.format(name=check)
    # A sampler needs the long chain that cases have by default: its steps must be small.
    chain = {} if kind is Sampler else {"schedule": SHORT}
    case = testing.Case(
        kind, check, sample_shape=(2,), num_classes=3, recipe=recipe, registry=registry, **chain
    )
    failed = {o.check: o.message for o in testing.run([case]) if o.status == "failed"}
    expected = UNREPEATABLE if component is objectives.EveryRunAnother else (check,)
    assert set(failed) == set(expected), failed
    with pytest.raises(testing.Nonconformance, match=says):
        raise testing.Nonconformance(failed[check])


def test_labels_that_a_source_knows_without_reading_are_compared_with_those_it_reads(
    registry: Registry,
) -> None:
    found = registry.copy()
    found.add(DataSource, "misremembers", broken.Misremembers)
    case = testing.Case(DataSource, "misremembers", registry=found)
    failed = {o.check: o.message for o in testing.run([case]) if o.status == "failed"}
    assert set(failed) == {"check_examples"}
    assert "all_labels() gives others than read()" in failed["check_examples"]


def test_labels_that_are_taken_in_secret_are_found_where_the_case_states_no_classes(
    registry: Registry,
) -> None:
    case = testing.Case(Denoiser, "check_conditional", sample_shape=(2,), schedule=SHORT, registry=registry)
    failed = {o.check: o.message for o in testing.run([case]) if o.status == "failed"}
    assert "set it to True" in failed.pop("check_conditional") and not failed


@pytest.mark.parametrize(("answer", "says"), [
    ("(x, {'a': x})", "forward gives a tuple with a dict inside: give a tensor, or a tuple of tensors"),
    ("{'a': x}", "forward gives a dict: give a tensor, or a tuple of tensors"),
    ("None", "forward gives a NoneType"),
    ("(x, x.mean())", r"forward gives a tensor of \(\) for 4 rows"),
    ("(x[:3], x)", r"forward gives a tensor of \(3, 2\) for 4 rows"),
    ("(x, x.sum(1), x)", None),
])  # fmt: skip
def test_what_a_network_gives_is_said_as_it_is(answer: str, says: str | None, registry: Registry) -> None:
    class Answers(nn.Module):
        """Answers."""

        def forward(self, x: Tensor) -> Any:
            return eval(answer)

    known = registry.copy()
    known.add(nn.Module, "answers", Answers)
    case = testing.Case(nn.Module, "answers", inputs=lambda n: (torch.zeros(n, 2),), registry=known)
    failed = {o.check: o.message for o in testing.run([case]) if o.status == "failed"}
    assert (says is None) == (not failed)
    if says is not None:
        assert re.search(says, failed["check_output"]), failed


@pytest.mark.parametrize("arguments", [("unet",), ("unet", Denoiser), (Denoiser,), (Denoiser, {"a": 1})])
def test_a_case_that_is_none_says_how_to_write_one(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(PluginError, match=r"a case is Case\(kind, name, ...\), such as Case\(Denoiser, "):
        testing.Case(*arguments)


def test_every_check_has_a_component_that_fails_it() -> None:
    caught = {
        found
        for kind, _, check, _ in BROKEN
        for found in testing.checks_for(testing.Case(kind, check))
        if found.__name__ == check
    }
    assert caught == {check for checks in testing.CHECKS.values() for check in checks}


def test_the_command_line_tells_what_failed_and_what_was_not_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, "stranger", STRANGER)
    result = CliRunner().invoke(main, ["plugin", "test", "stranger"])
    assert result.exit_code == 1, result.output
    lines = result.output.splitlines()
    assert [line.split() for line in lines if line.startswith(" DenoisingLoss")] == [
        ["DenoisingLoss", "mean_of_all", "1", "2"]
    ]
    assert "Sampler wide  " in result.output and "needs a case that states width" in result.output
    assert "failed: DenoisingLoss mean_of_all, check_one_value_a_row: gives shape ()" in result.output


def test_the_command_line_takes_cases_from_the_module_conformance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in the package of the plugin's module."""
    module = install(monkeypatch, tmp_path, "stranger", STRANGER)
    package = tmp_path / "stranger_of_cases"
    package.mkdir()
    (tmp_path / f"{module}.py").rename(package / "plugin.py")
    (package / "__init__.py").touch()
    (package / "conformance.py").write_text(CONFORMANCE)
    (tmp_path / "stranger-1.0.dist-info" / "entry_points.txt").write_text(
        "[toolkit]\nstranger = stranger_of_cases.plugin\n"
    )
    result = CliRunner().invoke(main, ["plugin", "test", "stranger"])
    assert result.exit_code == 0, result.output
    assert [line.split()[:4] for line in result.output.splitlines() if "passed" not in line] == [
        ["DenoisingLoss", "mean_of_all", "1", "0"],
        ["check_rows_do_not_leak:", "on", "purpose"],
        ["Sampler", "wide", "4", "0"],
    ]
