"""Checkpoints: safetensors and JSON; a folder is complete, or absent.

step-0001000/
    networks/<role>.safetensors   ema/<role>.safetensors   ema/<role>-<width>.safetensors
    objective.safetensors
    optimizers/<role>.safetensors   optimizers/<role>.json
    state.json        step, EMA update counts, sums for the next record, hashes of what is never trained
    pipeline.json     what it takes to sample it, unless models are inside its parts (toolkit.pipeline.folder)
    manifest.json     size and SHA-256 of every other file; written last
"""

import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.data.identity import changed
from toolkit.devices.placement import Placement
from toolkit.errors import CheckpointError, printable
from toolkit.files import (
    mismatch,
    new_folder,
    read_json,
    read_tensors,
    sha256_of,
    write_json,
    write_tensors,
)
from toolkit.registry.signature import Positive
from toolkit.runs.checkpoints import Best, Which
from toolkit.runs.layout import checkpoints_in, step_name, step_of
from toolkit.training.trainer import Training


@dataclass(frozen=True)
class CheckpointOptions:
    """When checkpoints are written and which of them are kept.

    Args:
        every: steps between two checkpoints; None writes one at the end only.
        keep_last: how many of the newest are kept.
        keep_every: also keep those whose step is a multiple of this.
        keep_best: also keep the best by this measure on held-out data, such as held_out/denoiser/loss; each
            step that is better than all before is saved.
        best_is: whether the lowest or the highest is the best.
    """

    every: Positive | None = None
    keep_last: Positive = 2
    keep_every: Positive | None = None
    keep_best: str | None = None
    best_is: Which = "lowest"

    def better(self, value: float, best: Best | None) -> bool:
        """Whether a measure is better than that of the best up to now; one that is not finite is not."""
        if not math.isfinite(value):
            return False
        return best is None or (value > best.value if self.best_is == "highest" else value < best.value)


FORMAT = 1


@dataclass(frozen=True)
class State:
    """The state of a run after a step, as a checkpoint's files hold it: whole tensors.

    Attributes:
        tensors: by file, without its ending, and by name.
        others: JSON by file, without its ending.
        step: steps done.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    others: Mapping[str, Mapping[str, Any]]
    step: int


def state_of(training: Training, step: int) -> State:
    """The state of a run after `step`; where networks are in parts, only the main process gets it whole.

    All processes call this. Tensors may be the run's own: they are to be written before it goes on.
    """
    tensors = {name: module.state_dict() for name, module in _modules(training).items()}
    others: dict[str, Mapping[str, Any]] = {}
    for role, optimizer in training.optimizers.items():
        name = f"optimizers/{role}"
        tensors[name], others[name] = _split(optimizer.state_dict()["state"])
    others["state"] = {
        "format": FORMAT,
        "step": step,
        "ema_updates": {name: ema.updates for name, ema in training.averages.items()},
        "untrained": _untrained(training),
        "sums": training.sums.state(),
    }
    return State({name: training.placement.gathered(held) for name, held in tensors.items()}, others, step)


def save(
    folder: Path,
    state: State,
    facts: Mapping[str, Any],
    describe: Callable[[Path], None] = lambda path: None,
) -> Path:
    """Write a checkpoint into `folder`, under a temporary name until it is complete.

    Args:
        folder: the run's checkpoints folder.
        state: what is saved.
        facts: values that must be the same when it is loaded, e.g. the size of the data set.
        describe: writes into it what it takes to sample its weights.
    """
    target = folder / step_name(state.step)
    with new_folder(target, replace=True) as temporary:  # one that `load` refused may be there
        for name, tensors in state.tensors.items():
            write_tensors(temporary / f"{name}.safetensors", tensors)
        others = {**state.others, "state": {**state.others["state"], "facts": dict(facts)}}
        for name, values in others.items():
            write_json(temporary / f"{name}.json", values)
        describe(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        write_json(temporary / "manifest.json", {
            path.relative_to(temporary).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        })  # fmt: skip
    return target


def load(path: Path, training: Training, facts: Mapping[str, Any]) -> int:
    """Put a checkpoint's state into `training`; returns the steps done.

    Raises:
        CheckpointError: if it is incomplete, altered, or of another recipe or data set; `training` is then
            unchanged.
    """
    verify(path)
    state = read_json(path / "state.json")
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is of format {state.get('format')}, this version reads {FORMAT}")
    for key in ("facts", "untrained", "ema_updates"):
        if not isinstance(state.get(key), dict):
            raise CheckpointError(f"{path}: state.json does not state {key}")
    averages = training.averages
    updates = {name: state["ema_updates"].get(name) for name in averages}
    if state.get("step") != step_of(path) or not all(isinstance(number, int) for number in updates.values()):
        raise CheckpointError(f"{path}: state.json is of another step, or of another recipe")
    if difference := changed(state["facts"], facts):
        raise CheckpointError(f"{path}: {difference}")
    for role, weights in _untrained(training).items():
        if state["untrained"].get(role) != weights:
            raise CheckpointError(f"{path}: network {role!r}, which is not trained, has other weights now")
    objects = _modules(training)
    tensors = {name: read_tensors(path / f"{name}.safetensors") for name in objects}
    for name, module in objects.items():
        if problem := mismatch(module.state_dict(), tensors[name], exact=True):
            raise CheckpointError(f"{path}: {name} is of another recipe: {problem}")
    moments = {
        role: _read_optimizer(path / "optimizers", role, optimizer)
        for role, optimizer in training.optimizers.items()
    }
    try:
        training.sums.load(state.get("sums", {}))
    except (AttributeError, TypeError, ValueError):
        raise CheckpointError(f"{path}: state.json does not state sums as pairs of numbers") from None
    for name, module in objects.items():
        training.placement.load(module, tensors[name])
    for name, ema in averages.items():
        ema.updates = updates[name]
    for role, optimizer in training.optimizers.items():
        _load_optimizer(optimizer, moments[role], training.placement)
    return int(state["step"])


def load_newest(folder: Path, training: Training, facts: Mapping[str, Any]) -> tuple[Path, int, list[str]]:
    """Load the newest usable checkpoint: its path, the steps done, and what is wrong with each newer one.

    Raises:
        CheckpointError: if none is usable, with one line for each that was refused.
    """
    complaints: list[str] = []
    for path in checkpoints_in(folder)[::-1]:
        try:
            return path, load(path, training, facts), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    raise CheckpointError("\n".join([*complaints, f"{folder}: has no checkpoint to go on from"]))


def last(folder: Path, step: int) -> Path | None:
    """The newest checkpoint up to `step`: later ones were refused when the run was resumed."""
    return next((path for path in checkpoints_in(folder)[::-1] if step_of(path) <= step), None)


def verify(path: Path) -> None:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: naming the first file that is missing, truncated or altered.
    """
    if not (path / "manifest.json").is_file():
        raise CheckpointError(f"{path}: not a complete checkpoint, it has no manifest.json")
    manifest = read_json(path / "manifest.json")
    if "state.json" not in manifest:
        raise CheckpointError(f"{path}: manifest.json is not a checkpoint's, it does not list state.json")
    for name, given in manifest.items():
        file = path / name
        if ".." in PurePosixPath(name).parts or not file.is_relative_to(path):
            raise CheckpointError(f"{path}: manifest.json lists {printable(name)}, which is outside")
        if not file.is_file():
            raise CheckpointError(f"{path}: {name} is missing")
        given = given if isinstance(given, dict) else {}
        if (size := file.stat().st_size) != given.get("bytes"):
            raise CheckpointError(
                f"{path}: {name} is truncated or foreign: {size} bytes and not {given.get('bytes')}"
            )
        if sha256_of(file) != given.get("sha256"):
            raise CheckpointError(f"{path}: {name} was altered, its checksum is not the manifest's")
    present = (file.relative_to(path) for file in path.rglob("*") if not file.is_dir())
    for name in sorted(file.as_posix() for file in present if not file.name.startswith(".")):
        if name not in manifest and name != "manifest.json":
            raise CheckpointError(f"{path}: has {printable(name)}, which manifest.json does not list")


def prune(folder: Path, step: int, keep_last: int, keep_every: int | None, best: Path | None = None) -> None:
    """Remove checkpoints up to `step`, except the newest `keep_last`, multiples of `keep_every` and the best.

    Later ones were refused when the run was resumed; they must not displace the good ones.
    """
    for path in [path for path in checkpoints_in(folder) if step_of(path) <= step][:-keep_last]:
        if path != best and (keep_every is None or step_of(path) % keep_every):
            shutil.rmtree(path)


def _modules(training: Training) -> dict[str, nn.Module]:
    """What has a state dict of its own, by the file that holds it."""
    networks = {f"networks/{role}": training.networks[role] for role in training.optimizers}
    averages = {f"ema/{name}": ema.network for name, ema in training.averages.items()}
    return {"objective": training.objective, **networks, **averages}


def _untrained(training: Training) -> dict[str, str]:
    """A hash of each network that no turn trains (a teacher); it must be the same when the run is resumed."""
    untrained = sorted(set(training.networks) - set(training.optimizers))
    return {role: training.placement.digest(training.networks[role]) for role in untrained}


def _split(state: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """An optimizer's state: tensors by `<parameter>.<name>`, and by parameter what is not a tensor."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    for index, values in state.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                rest.setdefault(str(index), {})[name] = value
    return tensors, rest


def _read_optimizer(folder: Path, role: str, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """The saved state of an optimizer by parameter, of the names, shapes and types that it keeps itself.

    A parameter that was never updated has none.

    Raises:
        CheckpointError: naming what differs: a fused kernel would read and write beyond a smaller tensor.
    """
    tensors, rest = read_tensors(folder / f"{role}.safetensors"), read_json(folder / f"{role}.json")
    kept = [state for group in optimizer.param_groups for state in _kept(optimizer, group)]
    indices = {*(key.partition(".")[0] for key in tensors), *rest}
    if strange := sorted(indices - {str(index) for index in range(len(kept))}):
        shown = printable(strange[0])
        raise CheckpointError(f"{folder}: the state of {role!r} has {shown}, which is of no parameter")
    own, other = _split({int(index): kept[int(index)] for index in indices})
    problem = mismatch(own, tensors, exact=True)
    for index in sorted(indices, key=int):
        values, wanted = rest.get(index, {}), other.get(index, {})
        if not isinstance(values, dict) or {n: type(v) for n, v in values.items()} != {
            n: type(v) for n, v in wanted.items()
        }:
            problem = problem or f"{role}.json holds {values} for parameter {index}, not the like of {wanted}"
    if problem:
        raise CheckpointError(f"{folder}: the state of {role!r} is of another optimizer: {problem}")
    result: dict[int, dict[str, Any]] = {int(index): dict(rest.get(index, {})) for index in indices}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        result[int(index)][name] = tensor
    return result


def _kept(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an optimizer keeps for each parameter of a group, as a step of a copy on whole zeros shows."""
    shapes = {
        (p.shape, p.dtype): torch.zeros(p.shape, dtype=p.dtype, device=p.device, requires_grad=True)
        for p in group["params"]
    }
    for zeros in shapes.values():
        zeros.grad = torch.zeros_like(zeros)
    trial = object.__new__(type(optimizer))
    vars(trial).update(vars(optimizer))
    trial.state = defaultdict(dict)
    trial.param_groups = [{**group, "params": list(shapes.values())}]
    trial.step()
    return [trial.state[shapes[p.shape, p.dtype]] for p in group["params"]]


def _load_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[int, dict[str, Any]], placement: Placement
) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, held in state.items():
        for name, value in held.items():
            if isinstance(value, Tensor) and value.shape == parameters[index].shape:
                held[name] = placement.as_placed(value, parameters[index])
    # load_state_dict would also restore the saved learning rate, betas and decay; the recipe's count.
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for group, given in zip(optimizer.param_groups, groups, strict=True):
        group.update(given)
    # Files keep no memory order; fused optimizers mix up elements where it is not the parameter's.
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                held[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
