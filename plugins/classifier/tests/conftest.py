from pathlib import Path

import pytest
from classifier_runs import trained


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, measured on all that is held out; tests copy what they change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.training.loop.HELD_OUT_ROWS", 360)
        return trained(tmp_path_factory.mktemp("classifier") / "run")
