"""What the toolkit adds to a training step, objective by objective, and to sampling.

    python benchmarks/overhead.py [--objectives ddpm ddgan ...] [--steps 60] [--samplings 8]

Beside each objective's step stands one written by hand in plain torch: the same networks, batch, losses and
optimizers on images that are there already, without a trainer, averages, logs or checks. Sampling: the bare
side calls the network as often as the sampler does, on a batch of noise. Both sides run in this process, in
turns, so that a change of the machine's speed hits both alike, and are timed by the processor (on an
accelerator by the clock).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus

from toolkit.data.batches import Batches, DataOptions
from toolkit.devices.processes import Processes
from toolkit.randomness import generators_for
from toolkit.recipe import Recipe, read_recipe
from toolkit.training.build import Built, build
from toolkit.training.result import Previews
from toolkit.training.trainer import Trainer

DIGITS = ["data.type=digits", "run.device=cpu", "run.precision=float32", "samples.num=0"]
RECIPES = {  # an objective's, and what it is trained on
    "ddpm": ("quickstart", DIGITS),
    "flow": ("flow_digits", DIGITS),
    "edm": ("edm_digits", DIGITS),
    "iwdiff": ("iwdiff_small", DIGITS),
    "ddgan": ("ddgan_digits", DIGITS),
    "sngan": ("sngan_mnist_small", [*DIGITS, "data.size=16", "data.fit=resize"]),
}
Work = Callable[[], object]
Backward = Iterator[tuple[str, Tensor]]  # the role to update next, and its loss


def ddpm(built: Built, images: Tensor, number: int) -> Backward:
    """Squared error of the noise."""
    network: Any = built.training.networks["denoiser"]
    t = torch.randint(200, (len(images),))
    noise = torch.randn_like(images)
    yield (
        "denoiser",
        mse_loss(network.model(diffused(built, images, t, noise), t, return_dict=False)[0], noise),
    )


def flow(built: Built, images: Tensor, number: int) -> Backward:
    """Velocity of straight lines, to noises that are assigned to images by optimal transport."""
    network: Any = built.training.networks["denoiser"]
    noise = torch.randn_like(images)
    cost = torch.cdist(images.flatten(1), noise.flatten(1)).square()
    noise = noise[torch.as_tensor(linear_sum_assignment(cost.numpy())[1])]
    t = torch.rand(len(images))
    x_t = (1 - t.view(-1, 1, 1, 1)) * images + t.view(-1, 1, 1, 1) * noise
    yield "denoiser", mse_loss(network.model(x_t, 1000 * t, return_dict=False)[0], noise - images)


def edm(built: Built, images: Tensor, number: int) -> Backward:
    """Preconditioned denoising (Karras et al. 2022)."""
    network: Any = built.training.networks["denoiser"].network
    data = 0.75
    sigma = (1.2 * torch.randn(len(images), 1, 1, 1) - 1.2).exp()
    x_t = images + sigma * torch.randn_like(images)
    total = (sigma.square() + data**2).sqrt()
    out = network.model(x_t / total, sigma.flatten().log() / 4, return_dict=False)[0]
    x0 = (data / total).square() * x_t + sigma * data / total * out
    weight = (sigma.square() + data**2) / (sigma * data).square()
    yield "denoiser", (weight * (x0 - images).square()).mean()


def iwdiff(built: Built, images: Tensor, number: int) -> Backward:
    """Two draws of noise an image, weighted by a softmax of their losses."""
    network: Any = built.training.networks["denoiser"]
    t = torch.randint(200, (len(images),)).repeat_interleave(2)
    twice = images.repeat_interleave(2, 0)
    noise = torch.randn_like(twice)
    for rows in torch.arange(len(t)).split(len(images)):  # as many at once as DDPM has
        x_t = diffused(built, twice[rows], t[rows], noise[rows])
        out = network.model(x_t, t[rows], return_dict=False)[0]
        losses = (out - noise[rows]).square().flatten(1).mean(1).view(-1, 2)
        part = (torch.softmax(losses.detach(), 1) * losses).sum(1).sum() / len(images)
        yield ("denoiser" if rows[-1] == len(t) - 1 else "", part)


def ddgan(built: Built, images: Tensor, number: int) -> Backward:
    """Non-saturating losses of transitions, R1 every fourth step."""
    generator, judge = (built.training.networks[role] for role in ("denoiser", "discriminator"))
    schedule: Any = built.schedule

    def pair() -> tuple[Tensor, ...]:
        t = torch.randint(2, (len(images),))
        x_s = schedule.diffuse(images, t - 1, torch.randn_like(images))
        return t, x_s, schedule.advance(x_s, t - 1, t, torch.randn_like(images))

    def back(x_t: Tensor, t: Tensor) -> Tensor:
        mean, std = schedule.posterior(generator(x_t, t).x0, x_t, t - 1, t)
        return mean + std * torch.randn_like(images)  # type: ignore[no-any-return]

    t, real, x_t = pair()
    with torch.no_grad():
        fake = back(x_t, t)
    penalised = number % 4 == 0
    real.requires_grad_(penalised)
    logits = judge(real, x_t, t)
    total = softplus(-logits).mean() + softplus(judge(fake, x_t, t)).mean()
    if penalised:
        (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        total = total + 0.025 * slope.square().flatten(1).sum(1).mean()
    yield "discriminator", total
    t, _, x_t = pair()
    yield "denoiser", softplus(-judge(back(x_t, t), x_t, t)).mean()


def sngan(built: Built, images: Tensor, number: int) -> Backward:
    """Hinge losses, two updates of the discriminator for one of the generator by twice as many images."""
    generator, judge = (built.training.networks[role] for role in ("generator", "discriminator"))

    def fakes(times: int = 1) -> Tensor:
        noise = torch.randn(times * len(images), *images.shape[1:])
        return generator(noise, torch.zeros(len(noise), dtype=torch.int64)).x0  # type: ignore[no-any-return]

    for _ in range(2):
        fake = fakes()
        yield "discriminator", (1 - judge(images)).relu().mean() + (1 + judge(fake.detach())).relu().mean()
    yield "generator", -judge(fakes(2)).mean()


BARE = {"ddpm": ddpm, "flow": flow, "edm": edm, "iwdiff": iwdiff, "ddgan": ddgan, "sngan": sngan}


def diffused(built: Built, images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t, from tables of float32."""
    schedule: Any = built.schedule
    kept = schedule.alphas_cumprod.float()[t].view(-1, 1, 1, 1)
    return kept.sqrt() * images + (1 - kept).sqrt() * noise


def bare_step(name: str, built: Built, images: Tensor) -> Work:
    """Forward, backward and the optimizers' steps of one objective."""
    training, number = built.training, 0
    for role, network in training.networks.items():
        network.train(role in training.optimizers)

    def step() -> None:
        nonlocal number
        turn = BARE[name](built, images, number)
        for role, loss in turn:
            loss.backward()
            if role:
                norm = training.optimizer_options[role].clip_norm
                if norm is not None:
                    nn.utils.clip_grad_norm_(training.networks[role].parameters(), norm)
                training.optimizers[role].step()
                for optimizer in training.optimizers.values():
                    optimizer.zero_grad()
        number += 1

    return step


def seconds(work: Work, device: torch.device) -> float:
    """What one call takes: of the processor, or of the clock where an accelerator computes."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    start = time.perf_counter()
    work()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def compare(what: str, ours: Work, bare: Work, pairs: int, device: torch.device) -> None:
    """Take both in turns, and print the medians and the median ratio of a pair."""
    for work in (bare, ours, bare, ours):
        seconds(work, device)
    timed = [(seconds(ours, device), seconds(bare, device)) for _ in range(pairs)]
    ratios = sorted(a / b for a, b in timed)
    a, b = (1000 * statistics.median(side) for side in zip(*timed, strict=True))
    quarter = pairs // 4
    print(
        f"{what}: {a:.1f} ms and {b:.1f} ms bare, ratio {statistics.median(ratios):.3f} "
        f"(quartiles {ratios[quarter]:.3f} and {ratios[-1 - quarter]:.3f}, {pairs} pairs)",
        flush=True,
    )


def without_averages(name: str, flags: list[str], folder: Path) -> Recipe:
    """The packaged recipe, without what a bare loop does not do."""
    text = f'extends = ["{name}"]\n'
    if "ema" in read_recipe(name, flags).tables:
        text += 'unset = ["ema"]\n'
    path = folder / f"{name}_bare.toml"
    path.write_text(text)
    return read_recipe(path, flags)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objectives", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=60, help="pairs of training steps")
    parser.add_argument("--samplings", type=int, default=8, help="pairs of samplings; 0 leaves them out")
    chosen = parser.parse_args()
    with Processes("cpu", "float32") as processes, tempfile.TemporaryDirectory() as folder:
        device = processes.device
        for name in chosen.objectives:
            recipe = without_averages(*RECIPES[name], Path(folder))
            built, twin = (build(recipe, device) for _ in range(2))
            batches = Batches(built.source, DataOptions(), seed=0, device=device)
            options = recipe.common(("run",))
            trainer = Trainer(built.training, batches, processes, options)
            bare = bare_step(name, twin, batches.get(0, options.batch_size).images)
            compare(f"{name}, a step", trainer.step, bare, chosen.steps, device)
        if chosen.samplings:
            compare_sampling(chosen.samplings, processes)


def compare_sampling(pairs: int, processes: Processes) -> None:
    """64 images of the quickstart, against as many calls of its network."""
    recipe, device = read_recipe("quickstart", DIGITS), processes.device
    pipeline = Previews(recipe, build(recipe, device), recipe.registry, processes).pipeline(0, average=False)
    assert pipeline is not None
    network: Any = pipeline.denoiser
    x, t = torch.randn(64, 1, 8, 8, device=device), torch.zeros(64, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def calls() -> None:
        for _ in range(pipeline.calls):
            network.model(x, t, return_dict=False)

    def sample() -> None:
        pipeline.draw(generators_for(0, 0, 64, device), 64)

    compare(f"sampling 64 images by {pipeline.calls} network calls", sample, calls, pairs, device)


if __name__ == "__main__":
    main()
