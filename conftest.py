"""For all tests: a torchvision without its operators would take diffusers with it when that is imported."""

from collections.abc import Iterator

import pytest

from toolkit.torchvision import define_missing_operators

define_missing_operators()


@pytest.fixture(scope="session", autouse=True)
def features_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features that tests compute are not kept among the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
