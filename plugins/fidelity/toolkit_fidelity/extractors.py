"""The published feature networks, as torch-fidelity has them.

Their weights are pickles. A file is first read by torch's restricted loader, which executes nothing, and only
then handed to torch-fidelity, which reads it again unprotected: nobody else may be able to write it.
"""

import hashlib
import importlib
import importlib.metadata
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from toolkit import DataError, FeatureExtractor, Features, RunError

BATCH = 64
INCEPTION = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
VGG = "https://download.pytorch.org/models/vgg16-397923af.pth"


class Inception(FeatureExtractor):
    """InceptionV3 of 2015, for the FID, KID and IS of the literature: pool3, and logits without the bias.

    Args:
        weights: the file of weights; if none, the one in torch's cache, or else a download.
    """

    name = "inception"

    def __init__(self, weights: Path | None = None) -> None:
        module = fidelity("feature_extractor_inceptionv3")
        path = weights_file(weights, INCEPTION)
        self.identity = identity(path)
        layers = ["2048", "logits_unbiased"]
        self._network = built(module.FeatureExtractorInceptionV3, "inception-v3-compat", layers, path)

    def extract(self, images: Tensor, device: torch.device) -> Features:
        features, logits = run(self._network, images, device)
        return Features(features, logits)


class VGG16(FeatureExtractor):
    """VGG16's second fully connected layer, for the precision and recall of the literature.

    Args:
        weights: the file of weights; if none, the one in torch's cache, or else a download.
    """

    name = "vgg16"

    def __init__(self, weights: Path | None = None) -> None:
        module = fidelity("feature_extractor_vgg16")
        path = weights_file(weights, VGG)
        self.identity = identity(path)
        self._network = built(module.FeatureExtractorVGG16, "vgg16", ["fc2_relu"], path)

    def extract(self, images: Tensor, device: torch.device) -> Features:
        (features,) = run(self._network, images, device)
        return Features(features)


def fidelity(module: str) -> ModuleType:
    """A module of torch-fidelity, which takes seconds to import.

    Raises:
        RunError: if it is not installed.
    """
    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except ModuleNotFoundError as error:
        raise RunError(f"{error.name} is not installed: pip install 'diffusion-toolkit[metrics]'") from None


def weights_file(given: Path | None, url: str) -> Path:
    """The given file of weights, or else the one in torch's cache, which is downloaded if it is missing.

    Raises:
        DataError: if it cannot be downloaded, with the way out, or does not hold plain weights.
    """
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    path = given or cached
    if given is None and not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=cached.stem.rpartition("-")[2])
        except (URLError, OSError, RuntimeError) as error:
            raise DataError(
                f"{url} cannot be downloaded ({error}): fetch it elsewhere, and name the file by "
                f"--set features.weights=FILE or put it at {cached}"
            ) from None
    try:
        torch.load(path, weights_only=True, map_location="meta")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of weights") from None
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise DataError(f"{path}: does not hold plain weights: {str(error).splitlines()[0]}") from None
    return path


def identity(path: Path) -> str:
    """A hash of the weights, and the version of torch-fidelity, which resizes images and has the network."""
    with path.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{weights} torch-fidelity {importlib.metadata.version('torch-fidelity')}"


def built(extractor: Any, name: str, layers: list[str], path: Path) -> torch.nn.Module:
    """Build one of torch-fidelity's extractors with these weights.

    Raises:
        DataError: if the weights are of another network.
    """
    try:
        network: torch.nn.Module = extractor(name, layers, feature_extractor_weights_path=str(path))
    except RuntimeError as error:
        raise DataError(
            f"{path}: holds the weights of another network: {str(error).splitlines()[0]}"
        ) from None
    return network


def run(network: torch.nn.Module, images: Tensor, device: torch.device) -> list[Tensor]:
    """Outputs for uint8 images (n, 1 or 3, H, W), on the CPU, one tensor per layer.

    Raises:
        DataError: if the images have another number of channels.
    """
    network.to(device)
    with torch.inference_mode():
        batches = [network(batch.to(device)) for batch in in_colour(images).split(BATCH)]
    return [torch.cat([batch[layer].cpu() for batch in batches]) for layer in range(len(batches[0]))]


def in_colour(images: Tensor) -> Tensor:
    """Pictures (n, 1 or 3, H, W) with three channels; grey is repeated.

    Raises:
        DataError: if the images have another number of channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"this extractor looks at pictures with 1 or 3 channels, not at {tuple(images.shape[1:])}"
        )
    return images.expand(-1, 3, -1, -1)
