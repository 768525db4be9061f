"""Are samples copies of training images? A score, and a picture of those that are most like one."""

from typing import Annotated, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from toolkit import Metric, RunError, Score, Subject, to_float, to_grid
from toolkit_fidelity.neighbours import distances, radii

COPY = 1 / 3  # of the distance to the second nearest (Yoon et al. 2023)
ROWS, CHANNELS = 8, (1, 3)  # of the picture


class Memorisation(Metric):
    """Share of samples three times as near to one training image as to any other (Yoon et al. 2023).

    `nearest_...` is the mean distance of samples to the nearest training image, over that of training images
    to the nearest other one: about 1 for new draws from the data's own distribution, 0 for copies, and above
    1 for samples that are unlike the data. A picture shows the samples that are most like copies, each left
    of the training images nearest to it.

    Args:
        space: where distances are measured: in the features of the protocol's extractor, which may also know
            a copy that is shifted or recoloured, or between pixels.
        nearest: training images beside each sample in the picture.
    """

    def __init__(
        self, space: Literal["features", "pixels"] = "features", nearest: Annotated[int, Field(ge=2)] = 7
    ) -> None:
        self.space, self.nearest = space, nearest

    def measure(self, subject: Subject) -> Score:
        if subject.split != "train":
            raise RunError("memorisation is of training images: compare with them by --split train")
        # First: without an extractor they are refused, before anything is sampled.
        features = None if self.space == "pixels" else [one.features for one in subject.features()]
        samples, training = subject.samples()
        generated, real = features or (samples.flatten(1).float(), training.flatten(1).float())
        if len(real) < 2:
            raise RunError("memorisation compares the nearest of at least two training images")
        count = min(self.nearest, len(real))
        found = [rows.topk(count, largest=False) for rows in distances(generated, real)]
        near, which = torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
        # How much nearer the nearest is; where two training images are the same as the sample, it is a copy.
        ratio = torch.where(near[:, 1] > 0, near[:, 0] / near[:, 1], 0.0)
        name = "pixels" if self.space == "pixels" else subject.extractor
        values = {f"memorised_{name}": float((ratio <= COPY).double().mean())}
        if (among_real := radii(real, 1).mean()) > 0:  # else all training images are the same
            values[f"nearest_{name}"] = float(near[:, 0].mean() / among_real)
        worst = ratio.argsort()[:ROWS]
        picture = beside(samples[worst], training[which[worst].flatten()].unflatten(0, (-1, count)))
        shows = "a row of the picture is a sample, the most suspicious first, and its nearest training images"
        return Score(
            values,
            notes=[] if picture is None else [shows],
            better={f"memorised_{name}": "lower"},
            picture=picture,
        )


def beside(samples: Tensor, others: Tensor) -> Image.Image | None:
    """A row for each sample (n, ...), left of its own others (n, m, ...); None if they are no pictures."""
    if samples.ndim != 4 or samples.shape[1] not in CHANNELS:
        return None
    rows = torch.cat([samples[:, None], others], dim=1)
    return to_grid(to_float(rows.flatten(0, 1)), columns=rows.shape[1])
