"""The recipe's plain tables: options that belong to the core and not to a component.

The constructor signature is the schema, as for every component: names, types, limits and defaults are
read from these classes by `toolkit.signature`, descriptions from their docstrings.
"""

from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import Field

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class RunOptions:
    """How large the batches are, how long the run is, and where it is kept.

    Args:
        batch_size: images in one optimizer step, over all processes together (the global batch).
        micro_batch_size: images in one forward pass; None for the whole share of a process. The global
            batch must be a multiple of micro_batch_size x processes.
        steps: stop after so many steps. A step is one cycle of the objective's turns.
        images: stop after so many images of global batches (steps x batch_size).
        minutes: stop after so much wall time of this process.
        seed: of all randomness; draws are a function of (seed, step, turn, repetition, shard).
        precision: "bf16" runs the loss under autocast; weights and optimizers stay float32.
        device: "auto" takes the accelerator if there is one.
        out: the run folder; by default runs/<name of the recipe>.
        log_every: steps between two records of metrics; only then do losses leave the device.
        measure_every: steps between two passes over the objective's measures on held-out data; None for
            one at the end.
    """

    batch_size: Positive
    micro_batch_size: Positive | None = None
    steps: Positive | None = None
    images: Positive | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bf16"] = "float32"
    device: Literal["auto", "cpu"] = "auto"
    out: Path | None = None
    log_every: Positive = 50
    measure_every: Positive | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.images is None and self.minutes is None:
            raise ValueError("states no end: set steps, images or minutes")
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )


@dataclass(frozen=True)
class ComputeOptions:
    """What `RunOptions` says of machines, for work that is no run.

    Args:
        device: "auto" takes the accelerator if there is one.
        precision: of networks.
    """

    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["float32", "bf16"] = "float32"


@dataclass(frozen=True)
class DataOptions:
    """What every data source can have done to its examples.

    Args:
        flip: mirror each image left to right with probability 1/2.
        in_memory_mb: decode the set once into memory if it takes no more than this (as uint8); larger
            ones are read while training.
        workers: processes that read a set that is not kept in memory; 0 reads in the trainer's process.
    """

    flip: bool = False
    in_memory_mb: Annotated[int, Field(ge=0)] = 2048
    workers: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class NetworkOptions:
    """What every network can have done to it.

    Args:
        init_from: start from the weights of the network in a saved pipeline (a folder) instead of the seed.
        compile: torch.compile the network; refused where a turn differentiates twice.
        channels_last: keep convolution weights in channels-last memory order.
    """

    init_from: Path | None = None
    compile: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class EMAOptions:
    """An exponential moving average of a network's weights, used for sampling and measuring.

    Args:
        decay: weight of the old average in each step.
        ramp: use min(decay, (1 + steps) / (10 + steps)), which follows the first steps closely.
        start: "init" averages from the initial weights (Ho et al. 2020); "first_step" starts as a copy of
            the weights after the first step (Xiao et al. 2022).
    """

    decay: Annotated[float, Field(ge=0, lt=1)]
    ramp: bool = False
    start: Literal["init", "first_step"] = "init"


@dataclass(frozen=True)
class SampleOptions:
    """Sample grids during training, always from the same noise; one of the raw and one of the EMA weights.

    Args:
        every: steps between two grids; None for one at the end only.
        num: images in a grid; 0 makes none.
        seed: image i of the grid is seeded seed + i.
        num_inference_steps: network calls; None for the schedule's own number.
        batch_size: images sampled at once.
    """

    every: Positive | None = None
    num: Annotated[int, Field(ge=0)] = 64
    seed: Annotated[int, Field(ge=0)] = 0
    num_inference_steps: Positive | None = None
    batch_size: Positive = 64


@dataclass(frozen=True)
class CheckpointOptions:
    """When checkpoints are written and which of them are kept.

    Args:
        every: steps between two checkpoints; None for one at the end only.
        keep_last: how many of the newest are kept.
        keep_every: also keep those whose step is a multiple of this.
    """

    every: Positive | None = None
    keep_last: Positive = 2
    keep_every: Positive | None = None


@dataclass(frozen=True)
class TrackerOptions:
    """Where metrics go besides metrics.jsonl, through Accelerate.

    Args:
        names: any of tensorboard, wandb, trackio, mlflow; their packages must be installed.
        project: the project's name there; TensorBoard's is a folder in the run's trackers/.
    """

    names: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = field(default_factory=list)
    project: str = "toolkit"

    def __post_init__(self) -> None:
        project = PurePath(self.project)
        if "tensorboard" in self.names and (project.is_absolute() or ".." in project.parts):
            raise ValueError(f"project {self.project!r} is a folder outside the run")


@dataclass(frozen=True)
class EvaluationOptions:
    """Which samples `toolkit evaluate` compares with which real examples.

    Args:
        num: generated images.
        real: real images, the first ones of their split; None for all.
        seed: image i is seeded seed + i.
        batch_size: images sampled at once.
    """

    num: Positive = 10_000
    real: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 64
