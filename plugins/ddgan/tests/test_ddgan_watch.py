import logging

import pytest

from toolkit.registry import load as plugins
from toolkit_ddgan.watch import PATIENCE, Watch

WON = {"discriminator/real": 5.0, "discriminator/fake": -4.0}
UNDECIDED = {"discriminator/real": 5.0, "discriminator/fake": 0.5}


@pytest.fixture
def said(tmp_path, caplog):
    """Says what a run of this objective with these records is told."""

    def tell(records, objective="ddgan"):
        (tmp_path / "recipe.toml").write_text(f'[objective]\ntype = "{objective}"\n')
        watch = Watch()
        caplog.clear()
        watch.toolkit_run_started(tmp_path)
        with caplog.at_level(logging.WARNING):
            for number, logs in enumerate(records, start=1):
                watch.toolkit_step_done(50 * number, logs)
        return [record.getMessage() for record in caplog.records]

    return tell


def test_a_discriminator_that_has_won_for_long_is_reported_once_with_what_to_try(said):
    (message,) = said([WON] * (3 * PATIENCE))
    assert message.startswith(f"step {50 * PATIENCE}: the discriminator has won.")
    assert "larger objective.r1_gamma" in message


def test_a_discriminator_that_the_generator_catches_up_with_is_not_reported(said):
    assert said(([WON] * (PATIENCE - 1) + [UNDECIDED]) * 3) == []


def test_runs_of_other_methods_are_not_watched(said):
    assert said([WON] * PATIENCE, "another") == []


def test_the_plugin_watches_runs(tmp_path, caplog):
    (tmp_path / "recipe.toml").write_text('[objective]\ntype = "ddgan"\n')
    loaded = plugins.load()
    assert loaded.tell("toolkit_run_started", run=tmp_path) == []
    for step in range(PATIENCE):
        assert loaded.tell("toolkit_step_done", run=tmp_path, step=step, logs=WON) == []
    assert "the discriminator has won" in caplog.text
    loaded.tell("toolkit_run_ended", run=tmp_path)
    assert loaded.tell("toolkit_step_done", run=tmp_path, step=0, logs={}) == []
