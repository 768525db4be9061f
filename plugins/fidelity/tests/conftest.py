from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from feature_sets import Images, Itself, Projection
from torch import Tensor

from toolkit import FeatureExtractor, Subject
from toolkit.evaluation.comparison import Comparison, EvaluationOptions, Share


@pytest.fixture
def subject(tmp_path: Path) -> Callable[..., Subject]:
    """Makes a subject of generated and real images, seen by an extractor; vectors are their own features."""

    def make(generated: Tensor, real: Tensor, extractor: FeatureExtractor | None = None) -> Subject:
        by = extractor or (Itself() if generated.ndim == 2 else Projection())
        options = EvaluationOptions(num=len(generated))
        comparison = Comparison(
            Images(generated), "", Images(real), options, by, torch.device("cpu"),
            tmp_path, lambda *told: None, Share(), tmp_path / "cache",
        )  # fmt: skip
        return Subject(None, Images(real), lambda done, total: None, comparison)

    return make
