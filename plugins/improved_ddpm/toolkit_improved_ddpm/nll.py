"""The negative log likelihood of real images, as the bound of the whole chain says."""

from collections.abc import Iterator
from math import sqrt
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from toolkit import (
    Chain,
    DataError,
    DataSource,
    Denoiser,
    Metric,
    NoiseSchedule,
    Prediction,
    RecipeError,
    Score,
    Subject,
    kept_timesteps,
    randn,
    to_float,
)
from toolkit_improved_ddpm.bound import Bound, FixedVariance

Count = Annotated[int, Field(ge=1)]


def terms(
    denoiser: Denoiser,
    bound: Bound,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    label: Tensor | None = None,
    *,
    fixed: FixedVariance = "fixed_small",
    learned: bool = True,
    clip: bool = True,
) -> tuple[Tensor, Tensor]:
    """Bits per dimension of the bound's terms, and mean squared errors of the predicted noise, both (B,).

    Args:
        denoiser: whose estimates are measured.
        bound: of the chain that it denoises.
        x0: images (B, ...) on the 256 levels of [-1, 1].
        t: kept timesteps of that chain, (B,) int64.
        noise: ~ N(0, I), (B, ...).
        label: the classes, (B,) int64, for a conditional denoiser.
        fixed: the variance of the reverse steps, where none was learned.
        learned: let a learned variance take precedence.
        clip: clip the estimate of x_0 to [-1, 1]; the squared error is of the noise before that.
    """
    prediction: Prediction = denoiser(bound.schedule.diffuse(x0, t, noise), t, label=label)
    has_learned = learned and prediction.variance_fraction is not None
    excess = bound.learned_excess(prediction, t) if has_learned else bound.fixed_excess(fixed, t, x0)
    estimate = prediction.x0.clamp(-1, 1) if clip else prediction.x0
    error = (prediction.noise - noise).square().flatten(1).mean(1)
    return bound.term(x0, estimate, excess, t), error


class NLL(Metric):
    """Bound on the negative log likelihood of real images, in bits per dimension (Ho et al. 2020, eq. 5).

    It means something for pictures that were kept without loss, in 256 levels. `standard_error` is that of
    the mean over images. The curves have a value for each of the `timesteps`: `bits_per_dim` sum to the bound
    but for its `prior`, `noise_mse` is the squared error of the predicted noise.

    Args:
        variance: of the reverse steps; None for the learned one, and for the sampler's if none was learned.
        clip: clip the estimate of x_0 to [-1, 1].
        images: how many are scored, the first of the split.
        num_inference_steps: bound a chain of so many evenly spaced timesteps; None for the whole one.
        batch_size: rows of a network call, each one image at one timestep.
        seed: image i is diffused with noise seeded seed + i, new at every timestep.
    """

    def __init__(
        self,
        variance: FixedVariance | None = None,
        clip: bool = True,
        images: Annotated[int, Field(ge=2)] = 1000,
        num_inference_steps: Count | None = None,
        batch_size: Count = 256,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.variance, self.clip, self.images = variance, clip, images
        self.num_inference_steps, self.batch_size, self.seed = num_inference_steps, batch_size, seed

    @torch.inference_mode()
    def measure(self, subject: Subject) -> Score:
        pipeline, device = subject.pipeline, subject.pipeline.device
        if not pipeline.denoiser.respaceable:
            raise RecipeError("nll: this network draws x_0 instead of estimating it: it bounds no likelihood")
        if pipeline.encoder is not None:
            raise RecipeError("nll: bits are of pictures, and this model is of latents")
        bound = Bound(self._chain(pipeline.schedule)).to(device)
        sampler = pipeline.saved.tables["sampler"]
        fixed: FixedVariance = "fixed_large" if sampler.get("variance") == "fixed_large" else "fixed_small"

        n, steps = min(self.images, len(subject.source)), bound.steps
        images, prior = torch.zeros(2, n, dtype=torch.float64)
        bits, errors = torch.zeros(2, steps, dtype=torch.float64)
        for image, step, x0, noise, label in self._rows(subject.source, n, steps, device):
            vb, error = terms(
                pipeline.denoiser, bound, x0, bound.schedule.timesteps[step].to(device), noise, label,
                fixed=self.variance or fixed, learned=self.variance is None, clip=self.clip,
            )  # fmt: skip
            prior[image] = bound.prior(x0).double().cpu()
            images.index_add_(0, image, vb.double().cpu())
            bits.index_add_(0, step, vb.double().cpu())
            errors.index_add_(0, step, error.double().cpu())
            subject.progress(int(image[-1]) * steps + int(step[-1]) + 1, n * steps)

        images += prior
        return Score(
            {
                "bits_per_dim": float(images.mean()),
                "standard_error": float(images.std()) / sqrt(n),
                "prior": float(prior.mean()),
                "noise_mse": float(errors.mean()) / n,
            },
            {
                "timesteps": bound.schedule.timesteps.tolist(),
                "bits_per_dim": (bits / n).tolist(),
                "noise_mse": (errors / n).tolist(),
            },
            better={"bits_per_dim": "lower"},
        )

    def _rows(
        self, source: DataSource, n: int, steps: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]]:
        """Batches of (number of the image, number of the step, x0, noise, label).

        All steps of image 0 come first, then those of image 1, and so on: an image's generator draws in the
        same order whatever the size of the batches.
        """
        generators: dict[int, torch.Generator] = {}
        for first in range(0, n * steps, self.batch_size):
            row = torch.arange(first, min(first + self.batch_size, n * steps))
            image, step = row // steps, row % steps
            read, place = image.unique(return_inverse=True)
            examples, labels = source.read(read)
            if examples.dtype != torch.uint8:
                raise DataError("nll: bits are of pictures in 256 levels, which this data is not")
            generators = {
                i: generators.get(i) or torch.Generator(device).manual_seed(self.seed + i)
                for i in read.tolist()
            }
            x0 = to_float(examples[place].to(device))
            noise = randn(x0.shape, [generators[i] for i in image.tolist()], device)
            yield image, step, x0, noise, None if labels is None else labels[place].to(device)

    def _chain(self, schedule: NoiseSchedule) -> Chain:
        if not isinstance(schedule, Chain):
            kind = type(schedule).__name__
            raise RecipeError(f"nll: the bound is of a chain of steps, and this model's schedule is a {kind}")
        if self.num_inference_steps is None:
            return schedule
        total = schedule.num_train_timesteps
        return schedule.respace(kept_timesteps(total, self.num_inference_steps, "linspace"))
