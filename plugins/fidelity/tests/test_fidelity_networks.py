"""The networks of the literature: torch-fidelity's numbers from its weights, and no other file is taken."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from fidelity_reference import filled, pictures, vectors
from torch import Tensor

from toolkit import DataError
from toolkit_fidelity.inception import Inception, InceptionV3
from toolkit_fidelity.pictures import resized
from toolkit_fidelity.vgg import VGG, VGG16

CPU = torch.device("cpu")


@pytest.mark.slow
def test_inception_gives_torch_fidelitys_features_and_logits(tmp_path: Path) -> None:
    torch.save(filled(InceptionV3()), tmp_path / "weights.pth")
    found = Inception(tmp_path / "weights.pth").extract(pictures(), CPU)
    assert found.features.shape == (2, 2048) and found.logits is not None and found.logits.shape == (2, 1008)
    for name, ours in (("inception_features", found.features), ("inception_logits", found.logits)):
        assert torch.allclose(ours[:, :200:20], torch.tensor(vectors()[name]), rtol=1e-4, atol=1e-5)


def test_vgg_has_the_parameters_that_torchvision_publishes() -> None:
    """138,357,544 of them; convolutions and linear layers are at these places of two sequences."""
    with torch.device("meta"):
        state = VGG().state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 138_357_544
    places = [f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
    places += [f"classifier.{i}" for i in (0, 3, 6)]
    assert list(state) == [f"{place}.{kind}" for place in places for kind in ("weight", "bias")]


def row(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_pictures_are_resized_from_the_corner_as_tensorflow_did() -> None:
    """Pixel i of 6 is at i * 3 / 6: the last has no right neighbour. Shrinking takes pixels as they are."""
    assert torch.equal(resized(row(0, 10, 20), 6)[0, 0, 0], torch.tensor([0.0, 5, 10, 15, 20, 20]))
    assert torch.equal(resized(row(0, 10, 20, 30, 40, 50), 3)[0, 0, 0], torch.tensor([0.0, 20, 40]))


@pytest.mark.parametrize("content", [b"nothing", None])
def test_a_file_that_is_not_of_this_network_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "weights.pth"
    if content is None:
        torch.save({"fc.weight": torch.zeros(2, 2)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(DataError, match="weights.pth: does not hold the weights of this network"):
        Inception(file)
    with pytest.raises(DataError, match="nowhere.pth: no such file of weights"):
        Inception(tmp_path / "nowhere.pth")


def test_weights_that_cannot_be_downloaded_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, *rest: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    for extractor, file in (
        (Inception, "weights-inception-2015-12-05-6726825d.pth"),
        (VGG16, "vgg16-397923af.pth"),
    ):
        with pytest.raises(
            DataError, match=f"(?s)cannot be downloaded.*features.weights=FILE or put it at .*{file}"
        ):
            extractor()
