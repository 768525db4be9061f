"""`toolkit recipe check`: build everything and take one small step of each kind before a run."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from toolkit.data.identity import summary
from toolkit.data.source import FirstRows
from toolkit.devices.processes import Processes
from toolkit.diffusion.sampler import count_calls, walk
from toolkit.errors import CheckpointError, SamplingError
from toolkit.pipeline.folder import SavedNetwork, load_network, save_network
from toolkit.pipeline.pipeline import Pipeline
from toolkit.randomness import generators_for
from toolkit.recipe import Recipe
from toolkit.registry.registry import Registry
from toolkit.training import checkpoint
from toolkit.training.result import Previews
from toolkit.training.session import session
from toolkit.training.trainer import RunOptions

ROWS, CALLS = 4, 3  # the large networks are slow on a CPU


def check_recipe(recipe: Recipe, say: Callable[[str], None]) -> None:
    """Build all components, take a step of every turn, sample a little, save and load; report by `say`.

    Raises:
        ToolkitError: for whatever would stop the run.
    """
    options: RunOptions = recipe.common(("run",))
    small = dataclasses.replace(options, batch_size=min(ROWS, options.batch_size), micro_batch_size=None)
    with (
        Processes(
            small.device, small.precision, tf32=small.tf32, cudnn_benchmark=small.cudnn_benchmark
        ) as processes,
        # Decoding or checking the whole data set is left to the run.
        session(recipe, processes, small, narrowed=FirstRows) as ready,
    ):
        built, trainer = ready.built, ready.trainer
        previews = Previews(recipe, built, recipe.registry, processes)  # refuses what cannot be sampled
        measured = bool(built.training.objective.measures())
        for line in summary(built.source, ready.batches, measured=measured):
            say(line)
        for role, module in built.training.networks.items():
            count = sum(p.numel() for p in module.parameters())
            say(f"network {role}: {type(module).__name__}, {count:,} parameters")
        say("computes with " + ", ".join(in_words(ready.computes())))
        trainer.step()
        losses = {name: value for name, value in trainer.take_logs().items() if name.endswith("/loss")}
        say("one step: " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items()))
        with tempfile.TemporaryDirectory() as temporary:
            saved = checkpoint.save(Path(temporary), checkpoint.state_of(built.training, trainer.number), {})
            checkpoint.load(saved, built.training, {})
            pipeline = previews.pipeline(1, average=True)
            if pipeline is not None:
                round_trip(pipeline, Path(temporary) / "pipeline", say)
            else:
                for role, network in previews.networks(1).items():
                    load_again(network, Path(temporary) / role, recipe.registry)
                    say(f"saved and loaded network {role}: it is the same")


def in_words(computes: Mapping[str, object]) -> Iterator[str]:
    """What a device does, a phrase for each setting that is not off or empty."""
    for name, value in computes.items():
        if value:
            text = ", ".join(value) if isinstance(value, list) else str(value)
            yield f"{name} {text}" if value is not True else name


def round_trip(pipeline: Pipeline, folder: Path, say: Callable[[str], None]) -> None:
    """Sample a few images with the first network calls, save, load, and sample the same ones again."""
    whole = pipeline.calls  # of the sampler's whole walk, which counting them has tried
    images = few(pipeline)
    pipeline.save_pretrained(folder)
    again = few(Pipeline.from_pretrained(folder).to(pipeline.device))
    # Memory order and compilation change the last bits; a weight that was not saved changes everything.
    if not all(
        torch.allclose(one, other, atol=1e-3 * float(one.abs().max()))
        for one, other in zip(images, again, strict=True)
    ):
        raise CheckpointError(
            "a saved and loaded pipeline samples other images: some of its state is no buffer"
        )
    shortened, dimensions = pipeline.times[: CALLS + 1], len(pipeline.sample_shape)
    calls = count_calls(pipeline.sampler, pipeline.schedule, shortened, dimensions, pipeline.guidance)
    say(f"{ROWS} samples by the first {calls} of {whole} network calls")
    say("saved and loaded the pipeline: it samples the same")


def load_again(saved: SavedNetwork, folder: Path, registry: Registry) -> None:
    """Save a network and load it again; raise a CheckpointError unless it is the same."""
    save_network(saved, folder, registry)
    if load_network(folder).identity != saved.identity:
        raise CheckpointError(
            "a network is not the same after saving and loading: its table or its state has changed"
        )


@torch.inference_mode()
def few(pipeline: Pipeline) -> tuple[torch.Tensor, torch.Tensor]:
    """What the first steps of a walk from its own start lead to, and what the network makes of it near data.

    Raises:
        SamplingError: if one of them is not finite.
    """
    denoiser, schedule, times = pipeline.denoiser.eval(), pipeline.schedule, pipeline.times[: CALLS + 1]
    generators, device = generators_for(0, 0, ROWS, pipeline.device), pipeline.device
    x = pipeline.start.draw((ROWS, *pipeline.sample_shape), generators, times[0], device)
    classes = pipeline.saved.num_classes
    label = None if classes is None else torch.arange(ROWS, device=device) % classes
    x = walk(
        pipeline.sampler, denoiser, schedule, x, times,
        generators=generators, label=label, guidance=pipeline.guidance,
    )  # fmt: skip
    dtype = torch.int64 if schedule.discrete else torch.float32
    t, s = (torch.full((ROWS,), time, dtype=dtype, device=device) for time in schedule.grid(None, None)[-2:])
    estimate = denoiser(x, t, s=s, label=label, latent=denoiser.latent(ROWS, generators)).x0
    if not bool(estimate.isfinite().all()):
        raise SamplingError(
            f"the network's estimate at t = {float(t[0]):.6g} is not finite (NaN or infinite)"
        )
    return x, estimate
