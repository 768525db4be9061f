"""Modes and divergences of shares that are known."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toolkit import DataSource, FeatureExtractor, Features, RunError, Score, Subject
from toolkit.evaluation.comparison import Comparison, EvaluationOptions, Share
from toolkit_classifier.modes import Modes

CPU = torch.device("cpu")


class Stated(FeatureExtractor):
    """Takes an image's first pixel for its class."""

    name = identity = "stated"

    def __init__(self, classes: int | None) -> None:
        self.classes = classes

    def extract(self, images: Tensor, device: torch.device) -> Features:
        labels = images[:, 0, 0, 0].long()
        logits = None if self.classes is None else torch.eye(self.classes)[labels]
        return Features(labels[:, None].float(), logits)


class Labels(DataSource):
    """Images whose first pixel is their class."""

    image_shape, num_classes = (1, 1, 1), None

    def __init__(self, labels: list[int]) -> None:
        self.images = torch.tensor(labels, dtype=torch.uint8)[:, None, None, None]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.images[indices], None


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., Score]:
    """Scores samples of these classes against real images of those."""

    def measured(metric: Modes, samples: list[int], real: list[int], classes: int | None) -> Score:
        source = Labels(real)
        comparison = Comparison(
            Labels(samples), "", source, EvaluationOptions(num=len(samples)), Stated(classes), CPU, tmp_path,
            lambda *told: None, Share(), tmp_path / f"cache {classes}",
        )  # fmt: skip
        return metric.measure(Subject(None, source, lambda *told: None, comparison))

    return measured


def values(score: Score) -> tuple[float, ...]:
    assert list(score.values) == ["modes_stated", "share_stated", "kl_stated"]
    return tuple(score.values.values())


def test_against_uniform_shares_all_classes_count(score) -> None:
    uniform = Modes("uniform")
    assert values(score(uniform, [0, 1, 2, 3] * 5, [0], 4)) == (4, 1, pytest.approx(0, abs=1e-12))
    assert values(score(uniform, [2] * 7, [0], 10)) == (1, 0.1, pytest.approx(math.log(10)))
    by_hand = 0.75 * math.log(0.75 * 4) + 0.25 * math.log(0.25 * 4)
    assert values(score(uniform, [1, 1, 1, 3], [0], 4)) == (2, 0.5, pytest.approx(by_hand))


def test_against_the_data_its_classes_count_as_often_as_they_are(score) -> None:
    real = [0, 0, 0, 1, 1, 2]  # a half, a third, a sixth; class 3 is not there
    assert values(score(Modes(), [0, 1, 0, 2, 1, 0], real, 4)) == (3, 1, pytest.approx(0, abs=1e-12))
    by_hand = 0.5 * math.log(0.5 / (1 / 2)) + 0.5 * math.log(0.5 / (1 / 6))
    assert values(score(Modes(), [0, 2], real, 4)) == (2, pytest.approx(2 / 3), pytest.approx(by_hand))


def test_samples_of_classes_that_the_data_lacks_are_left_out_and_said(score) -> None:
    result = score(Modes(), [0, 3, 3, 1], [0, 1], 4)
    assert values(result) == (2, 1, pytest.approx(0, abs=1e-12))
    assert result.notes[-1] == "2 samples are of classes that no real image has, and are not counted"
    with pytest.raises(RunError, match="no sample is of a class that the real images have"):
        score(Modes(), [3, 3], [0, 1], 4)


def test_few_samples_for_the_classes_are_said(score) -> None:
    assert len(score(Modes(), [0, 1] * 10, [0, 1], 4).notes) == 0
    assert score(Modes(), [0] * 19, [0, 1], 4).notes[0].startswith("19 samples are few for 2 classes")


def test_an_extractor_without_classes_counts_no_modes(score) -> None:
    with pytest.raises(RunError, match="modes are counted by classes, and stated has none"):
        score(Modes(), [0, 1], [0], None)
