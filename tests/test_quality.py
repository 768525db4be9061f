"""The quickstart's samples are digits, as a judge that never saw the model says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

import toolkit
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.sources.digits import Digits
from toolkit.training.loop import train

Array = NDArray[np.float64]
pytestmark = pytest.mark.slow


def flat(images: torch.Tensor) -> Array:
    """Images in [-1, 1] as rows of 64 values in [0, 1]."""
    return ((images + 1) / 2).flatten(1).double().numpy()


def examples(source: Digits) -> tuple[Array, Array]:
    images, labels = source.read(torch.arange(len(source)))
    assert labels is not None
    return flat(images.float() / 127.5 - 1), labels.numpy()


@pytest.fixture(scope="module")
def judge() -> RandomForestClassifier:
    """Fitted on the part of the digits that models train on. (Logistic regression is as sure of noise.)"""
    return RandomForestClassifier(200, random_state=0).fit(*examples(Digits(split="train")))


def test_quickstart_samples_are_nearly_as_recognisable_as_held_out_digits(
    judge: RandomForestClassifier, tmp_path: Path
) -> None:
    loaded = plugins.load()
    stated = [f"run.out={tmp_path / 'run'}", "samples.num=0"]
    train(resolve(read_layers("quickstart", stated), loaded.registry), loaded)
    samples = torch.cat(list(toolkit.load(str(tmp_path / "run")).sample(256, batch_size=128)))

    real, drawn = (judge.predict_proba(x) for x in (examples(Digits(split="test"))[0], flat(samples)))
    noise = judge.predict_proba(np.random.default_rng(0).random((256, 64)))
    confidence = {"real": real.max(1).mean(), "drawn": drawn.max(1).mean(), "noise": noise.max(1).mean()}
    spread = {
        name: np.bincount(p.argmax(1), minlength=10) / len(p)
        for name, p in (("real", real), ("drawn", drawn))
    }
    # Measured on one quickstart run: real .77, drawn .70, noise .19, distance .12, the rarest class .07.
    assert confidence["drawn"] > confidence["real"] - 0.2, confidence
    assert confidence["drawn"] > confidence["noise"] + 0.25, confidence
    assert np.abs(spread["drawn"] - spread["real"]).sum() / 2 < 0.25, spread
    assert spread["drawn"].min() > 0.01, spread
