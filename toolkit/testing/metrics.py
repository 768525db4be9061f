"""Checks of metrics, on a small model and pictures of noise."""

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.data.source import DataSource
from toolkit.diffusion.sampler import Sampler
from toolkit.diffusion.start import Start
from toolkit.evaluation.comparison import Comparison, EvaluationOptions, Share
from toolkit.evaluation.features import FeatureExtractor, Features
from toolkit.evaluation.metric import Metric, Score, Subject
from toolkit.pipeline.folder import Saved
from toolkit.pipeline.pipeline import Pipeline
from toolkit.testing.case import Case
from toolkit.testing.oracles import Shrinking
from toolkit.testing.randomness import foreign_seed
from toolkit.testing.requirement import require

IMAGES = 64
FEATURES, CLASSES = 8, 5
CPU = torch.device("cpu")


class Noise(DataSource):
    """Noise of a case's shape: uint8 pictures if it has three dimensions, else float32."""

    def __init__(self, case: Case) -> None:
        self.image_shape, self.num_classes = case.sample_shape, case.num_classes
        generator = torch.Generator().manual_seed(11)
        self._rows = torch.randn(IMAGES, *case.sample_shape, generator=generator)
        if len(case.sample_shape) == 3:
            self._rows = (127.5 + 64 * self._rows).clamp(0, 255).to(torch.uint8)

    def __len__(self) -> int:
        return IMAGES

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._rows[indices], None if self.num_classes is None else indices % self.num_classes


class Projection(FeatureExtractor):
    """A random projection, with logits."""

    name, identity = "projection", "projection"

    def extract(self, images: Tensor, device: torch.device) -> Features:
        flat = images.flatten(1).float() / 255
        generator = torch.Generator().manual_seed(13)
        weight = torch.randn(flat.shape[1], FEATURES + CLASSES, generator=generator)
        return Features(*(flat @ weight).split([FEATURES, CLASSES], dim=1))


@contextmanager
def _subject(case: Case) -> Iterator[Subject]:
    """An untrained model, its samples, and noise to compare them with."""
    chain, source, registry = case.path(), Noise(case), case.known
    tables: dict[str, Any] = {"schedule": dict(case.schedule), "network": {"type": "shrinking"}}

    def part(kind: type, section: str, name: str) -> Any:
        tables[section] = registry.resolve(kind, {"type": name})
        return registry.create(kind, tables[section], supplied={"schedule": chain}, where=str)

    sampler, start = part(Sampler, "sampler", "ancestral"), part(Start, "start", "noise")
    saved = Saved(sample_shape=case.sample_shape, num_classes=case.num_classes, **tables)
    denoiser = Shrinking(chain).eval().requires_grad_(False)
    model = Pipeline(denoiser, chain, sampler, start, saved, registry)
    options = EvaluationOptions(num=IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(
            model, "shrinking", source, options, Projection(), CPU, Path(folder), lambda *report: None,
            Share(), Path(folder) / "cache",
        )  # fmt: skip
        yield Subject(model, source, lambda done, total: None, comparison)


def _score(case: Case, seed: int = 0) -> Score:
    metric: Metric = case.build()
    with _subject(case) as subject, foreign_seed(seed):
        torch.manual_seed(seed)
        return metric.measure(subject)


def check_score(case: Case) -> None:
    """A score is named finite numbers that JSON can hold."""
    score = _score(case)
    require(score.values, "gives no values: the first one is what people quote")
    named = {**{name: [value] for name, value in score.values.items()}, **dict(score.curves)}
    try:
        json.dumps([dict(score.values), {name: list(curve) for name, curve in score.curves.items()}])
    except TypeError as error:
        require(False, f"cannot be written as JSON ({error}): give float(value), and lists of floats")
    bad = [name for name, values in named.items() if not all(map(math.isfinite, values))]
    require(not bad, f"{', '.join(bad)} is not finite on {IMAGES} pictures of noise")


def check_same_score_twice(case: Case) -> None:
    """The same subject has the same score, whatever was drawn before."""
    first, again = _score(case, seed=0), _score(case, seed=1)
    require(
        first == again,
        "the same subject has another score: seed what it draws by an option, with its own torch.Generator",
    )


def check_model_is_left_alone(case: Case) -> None:
    """Measuring changes neither the model's state nor its mode."""
    metric: Metric = case.build()
    with _subject(case) as subject:
        denoiser = subject.pipeline.denoiser
        before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
        metric.measure(subject)
        same = all(torch.equal(before[name], tensor) for name, tensor in denoiser.state_dict().items())
        require(
            same and not denoiser.training and not any(p.requires_grad for p in denoiser.parameters()),
            "changes the model that it scores: the next metric would score another one",
        )


CHECKS = (check_score, check_same_score_twice, check_model_is_left_alone)
