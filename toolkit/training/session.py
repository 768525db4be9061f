"""A recipe's objects, built and ready for a training step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from toolkit.data.batches import Batches
from toolkit.data.reading import Progress
from toolkit.data.source import DataSource
from toolkit.devices.placement import Placement, Replicated
from toolkit.devices.processes import Processes
from toolkit.recipe import Recipe
from toolkit.training.build import Built, build
from toolkit.training.trainer import RunOptions, Trainer


@dataclass(frozen=True)
class Session:
    """A recipe's objects on the device of this process; nothing is trained yet."""

    built: Built
    batches: Batches
    trainer: Trainer
    processes: Processes

    def computes(self) -> dict[str, object]:
        """What was chosen for this device: of the recipe, by "auto", or by default."""
        training = self.built.training
        options = {role: self.built.recipe.tables["networks"][role] for role in training.networks}
        return {
            **self.processes.computes(),
            "data": self.batches.place,
            "sharding": f"{self.processes.count} parts" if training.placement.sharded else None,
            "channels_last": [role for role, table in options.items() if table["channels_last"]],
            "compiled": [role for role, table in options.items() if table["compile"]],
            "checkpointed": [role for role, table in options.items() if table["checkpoint_activations"]],
            "fused_optimizers": [
                role for role, optimizer in training.optimizers.items() if optimizer.defaults.get("fused")
            ],
        }


@contextmanager
def session(
    recipe: Recipe,
    processes: Processes,
    options: RunOptions,
    *,
    narrowed: Callable[[DataSource], DataSource] = lambda source: source,
    progress: Progress | None = None,
) -> Iterator[Session]:
    """Build everything that a recipe describes, and a trainer for it.

    Args:
        recipe: resolved.
        processes: of the run.
        options: sizes and the seed; may differ from the recipe's [run].
        narrowed: reduces the recipe's data source to what is to be read; by default all of it.
        progress: shows the reading of the data.

    Raises:
        ToolkitError: for every mistake in the recipe or its data.
    """
    built = build(recipe, processes.device, placement(options, processes))
    batches = Batches(
        narrowed(built.source), recipe.common(("data",)), seed=options.seed, device=processes.device,
        progress=progress, encode=built.encode, cache=built.cache,
    )  # fmt: skip
    try:
        yield Session(built, batches, Trainer(built.training, batches, processes, options), processes)
    finally:
        batches.close()


def placement(options: RunOptions, processes: Processes) -> Placement:
    """How networks lie on the processes: in parts if the recipe says so and there are others to hold them."""
    if options.sharding is None or not processes.grouped:
        return Replicated(processes.device)
    from toolkit.devices.sharding import Sharded  # which takes torch two seconds to import

    return Sharded(processes)
