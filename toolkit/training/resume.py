"""Resuming: which changes of the recipe are allowed, and which make it another run."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toolkit.data.identity import KNOWN_BY
from toolkit.errors import CheckpointError, RunError, nearest
from toolkit.recipe import Recipe, read_layers, resolve
from toolkit.runs.folder import RunFolder
from toolkit.training.trainer import RunOptions

# Neither the mathematics nor the data order depends on these. The data may have moved: the
# checkpoint records its identity, with the micro-batch size, by which it is known again.
FREE = {
    ("run", "steps"), ("run", "images"), ("run", "minutes"), ("run", "out"), ("run", "log_every"),
    ("run", "measure_every"), ("run", "device"), ("run", "sharding"), ("run", "tf32"),
    ("run", "cudnn_benchmark"),
    ("data", "in_memory_mb"), ("data", "workers"), ("data", "on_error"),
    ("samples",), ("checkpoints",), ("trackers",), ("sampler",), ("start",), ("guidance",),
}  # fmt: skip

FREE_OF_ROLES = {
    ("networks", "channels_last"), ("networks", "checkpoint_activations"), ("ema", "snapshot_every")
}  # fmt: skip

STARTED, RESUMED, REPLACED, FINISHED = "started", "resumed", "replaced", "finished"

# What a checkpoint was made with that a deliberate change of these keys changes.
FACTS = {"data": KNOWN_BY, "encoder": ("encoder",), "run": ("micro_batch",)}


@dataclass(frozen=True)
class Change:
    """A value of the recipe that is another than in the run that is resumed."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key} was {self.before!r} and is {self.after!r}"

    def within(self, keys: Sequence[str]) -> bool:
        """Whether one of these keys, or the table of that name, covers it."""
        return any(f"{self.key}.".startswith(f"{key}.") for key in keys)


class Beginning:
    """How a run begins in its folder: started, resumed, replaced, or not at all, as it is finished.

    Args:
        recipe: of the run, resolved.
        options: its [run].
        folder: where.
        resume: see `train`.
        overwrite: see `train`.
        deliberate: keys whose values may differ from those of the run that is resumed.

    Attributes:
        micro_batch: the recipe's, or where that is "auto" the one of the run that is resumed.
    """

    def __init__(
        self, recipe: Recipe, options: RunOptions, folder: RunFolder, resume: bool | Literal["auto"],
        overwrite: bool, deliberate: Sequence[str],
    ) -> None:  # fmt: skip
        self._recipe, self._options, self._folder = recipe, options, folder
        self._resume, self._deliberate = resume, deliberate
        self.how = REPLACED if overwrite else STARTED
        self.micro_batch = options.micro_batch_size
        self.changes: list[Change] = []

    def claim(self) -> None:
        """Decide, and take the folder.

        Raises:
            ToolkitError: if the run cannot be resumed, or is another one's, or is finished.
        """
        self._decide()
        if self.how != FINISHED:
            self._folder.claim(resume=self.how == RESUMED, overwrite=self.how == REPLACED)
            if self._resume == "auto":
                self._decide()  # again, now that nobody else writes: the run may have ended meanwhile

    def _decide(self) -> None:
        if self._resume and not (self._resume == "auto" and not self._folder.recipe.is_file()):
            self.changes = self._refuse_another_recipe()
            self.how = self._resumed()

    def _resumed(self) -> str:
        step, last = self._folder.finished(), self._options.last_step
        if step is not None and last is not None and step >= last:
            if self._resume == "auto":
                return FINISHED
            raise RunError(
                f"{self._folder.path}: is finished, at step {step}. To go on, set run.steps (or run.images) "
                "higher"
            )
        if self._resume == "auto" and not any(self._folder.checkpoints.glob("step-*")):
            return REPLACED  # it was killed before its first checkpoint
        return RESUMED

    def _refuse_another_recipe(self) -> list[Change]:
        """The deliberate changes; a run may also become longer, be elsewhere, or save at other steps."""
        stored = self._folder.recipe
        if not stored.is_file():
            raise RunError(f"{stored.parent}: there is no run to resume; --resume auto starts one")
        before = resolve(read_layers(stored), registry=self._recipe.registry).tables
        for key in self._deliberate:
            _refuse_unknown(key, before, self._recipe.tables)
        recipe = self._recipe
        if self.micro_batch == "auto":  # found before the run; its results depend on it
            self.micro_batch = before["run"]["micro_batch_size"]
            recipe = recipe.with_value(("run", "micro_batch_size"), self.micro_batch)
        changes = list(_compare(before, recipe.tables, _free))
        differing = [change for change in changes if not change.within(self._deliberate)]
        if differing:
            first = "; ".join(map(str, differing[:3]))
            first += f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise CheckpointError(
                f"{stored.parent}: its checkpoints are of another recipe: {first}. If that is meant, "
                f"allow it: --change {differing[0].key}"
            )
        return changes

    def unchanged(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The facts that must be the checkpoint's: all but those that a deliberate change concerns."""
        tables = {change.key.partition(".")[0] for change in self.changes}
        tables |= set(self._deliberate) & {"data", "encoder"}  # others under the same path
        changed = {name for table in tables for name in FACTS.get(table, ())}
        return {name: value for name, value in facts.items() if name not in changed}


def _refuse_unknown(key: str, *recipes: Mapping[str, Any]) -> None:
    """Raise a RunError if no recipe has the key."""
    nodes: list[Any] = list(recipes)
    for i, part in enumerate(parts := key.split(".")):
        known = {name for node in nodes if isinstance(node, Mapping) for name in node}
        if part not in known:
            there = f"[{'.'.join(parts[:i])}]" if i else "the recipe"
            raise RunError(f"--change {key}: {there} has no {part!r}.{nearest(part, known)}")
        nodes = [node[part] for node in nodes if isinstance(node, Mapping) and part in node]


def refuse_unlike(what: str, main: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a process that would train something else than the main one, as on another machine it may.

    Args:
        what: "recipe" or "data".
        main: the tables of its recipe, or facts about its data.
        here: those of this process; only where its data lies may be another.

    Raises:
        RunError: naming the first difference.
    """
    for change in _compare(main, here, _moved):
        raise RunError(
            f"the {what} on {platform.node()} is not the main process's: {change.key} is {change.after!r} "
            f"here and {change.before!r} there"
        )


def _moved(path: tuple[str, ...]) -> bool:
    return path[:1] == ("data",) and path[-1] == "path"


def _free(path: tuple[str, ...]) -> bool:
    return path in FREE or path[0::2] in FREE_OF_ROLES or _moved(path)


def _compare(
    before: Any, after: Any, allowed: Callable[[tuple[str, ...]], bool], path: tuple[str, ...] = ()
) -> Iterator[Change]:
    if allowed(path):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from _compare(before.get(key), after.get(key), allowed, (*path, key))
    elif before != after:
        yield Change(".".join(path), before, after)
