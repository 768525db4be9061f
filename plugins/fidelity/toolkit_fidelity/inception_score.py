"""The Inception score, of the classes that a classifier sees in generated images."""

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from toolkit import Metric, RunError, Score, Subject

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy's generator takes


class IS(Metric):
    """exp of the mean KL(p(class | image), p(class)) (Salimans et al. 2016); higher is better.

    Args:
        splits: parts of the set, each with a score; the mean and the population deviation are reported.
        seed: for the order in which images are split, by numpy's generator, as torch-fidelity orders them.
    """

    def __init__(self, splits: Count = 10, seed: Seed = 2020) -> None:
        self.splits, self.seed = splits, seed

    def measure(self, subject: Subject) -> Score:
        generated, _ = subject.features()
        if generated.logits is None:
            raise RunError(f"the Inception score needs logits, and {subject.extractor} has none")
        if len(generated.logits) < self.splits:
            raise RunError(f"{len(generated.logits)} images cannot be split into {self.splits} parts")
        n = len(generated.logits)
        order = torch.from_numpy(np.random.RandomState(self.seed).permutation(n))
        log_p = generated.logits[order].double().log_softmax(1)
        scores = []
        for part in log_p.tensor_split([i * n // self.splits for i in range(1, self.splits)]):
            of_all = part.logsumexp(0) - math.log(len(part))
            scores.append(float((part.exp() * (part - of_all)).sum(1).mean().exp()))
        name = f"is_{subject.extractor}"
        return Score(
            {name: float(np.mean(scores)), f"{name}_std": float(np.std(scores))}, better={name: "higher"}
        )
