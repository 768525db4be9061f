"""VGG16 (Simonyan and Zisserman 2015), by which Kynkaanniemi et al. (2019) measure precision and recall."""

from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit import FeatureExtractor, Features
from toolkit_fidelity.pictures import in_colour, resized
from toolkit_fidelity.weights import identity, load_weights, weights_file

URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
PREPARATION = "224x224, bilinear as TensorFlow 1; ImageNet's mean and deviation"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
BATCH = 32


class VGG(nn.Module):
    """The second fully connected layer's output (n, 4096), after its ReLU; names are torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for widths in WIDTHS:
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        last = [nn.Linear(7 * 7 * before, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
        self.classifier = nn.Sequential(*last, nn.Dropout(), nn.Linear(4096, 1000))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier[:-2](self.features(x).flatten(1))
        return y


class VGG16(FeatureExtractor):
    """VGG16's second fully connected layer, for the precision and recall of the literature.

    Args:
        weights: the file of weights; if none, the one in torch's cache, or else a download.

    Raises:
        DataError: if there are no weights, or not of this network.
    """

    name = "vgg16"

    def __init__(self, weights: Path | None = None) -> None:
        path = weights_file(weights, URL)
        self._network = VGG()
        load_weights(self._network, path)
        self.identity = identity(path, PREPARATION)

    def extract(self, images: Tensor, device: torch.device) -> Features:
        self._network.to(device)
        mean, std = (255 * torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
        found = []
        with torch.inference_mode():
            for batch in in_colour(images).split(BATCH):
                found.append(self._network((resized(batch.to(device).float(), 224) - mean) / std))
        return Features(torch.cat(found).cpu())
