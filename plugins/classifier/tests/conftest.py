from pathlib import Path

import pytest
from classifier_runs import trained


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy what they change."""
    return trained(tmp_path_factory.mktemp("classifier") / "run")
