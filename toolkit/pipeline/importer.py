"""Importers: weights that were trained with other code."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import CheckpointError
from toolkit.files import opened
from toolkit.pipeline.folder import COMMON, PARTS, Saved
from toolkit.pipeline.pipeline import Pipeline
from toolkit.registry.registry import Registry


class Importer(ABC):
    """Makes a pipeline from a foreign file of weights; `toolkit import` saves it.

    Such files hold only tensors by name. Their shapes tell much of the network; whatever else is needed is an
    option of the importer, set by `--set NAME=VALUE`, or by `--preset` for the option "preset". What the file
    leaves open is asked for, not guessed.
    """

    @abstractmethod
    def describe(self, state: Mapping[str, Tensor]) -> Saved:
        """The pipeline that a file with these tensors is of: shapes, and tables as a recipe has them.

        Raises:
            ValueError: if they are of something else, or an option is needed to know; the message says which.
        """

    @abstractmethod
    def fill(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Copy the file's tensors into the described network, as `copy_weights` does.

        Raises:
            ValueError: if they are not weights of this network; the message says why.
        """


def published_settings(
    shapes: Any,
    runs: Mapping[str, tuple[Any, Mapping[str, Any]]],
    preset: str | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Settings that a file's shapes leave open: as given, and else those of the published run it is from.

    Args:
        shapes: what the file's shapes tell, a dataclass.
        runs: the shapes and the settings of published runs.
        preset: the run it is from; by default the one that has its shapes, if there is just one.
        given: every setting, None where it is not given.

    Raises:
        ValueError: if the preset has other shapes, or settings are needed; the message says the choices.
    """
    fitting = {name: settings for name, (published, settings) in runs.items() if published == shapes}
    if preset is not None and preset not in fitting:
        there, here = asdict(shapes), asdict(runs[preset][0])
        differ = [f"{name} is {there[name]}, not {here[name]}" for name in here if here[name] != there[name]]
        raise ValueError(f"is not of preset {preset!r}: {', '.join(differ)}")
    missing = [name for name, value in given.items() if value is None]
    if missing and preset is None and len(fitting) != 1:
        of = " and ".join(fitting) or "no published run"
        presets = f"--preset {' or '.join(fitting)}, or " if fitting else ""
        settings = " ".join(f"--set {name}=..." for name in missing)
        raise ValueError(
            f"has the shapes of {of}, which leaves {', '.join(missing)} open: give {presets}{settings}"
        )
    published = fitting[preset] if preset is not None else next(iter(fitting.values()), {})
    return {**published, **{name: value for name, value in given.items() if value is not None}}


@torch.no_grad()
def copy_weights(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Copy a file's tensors into parameters of the same names, or views of parameters.

    Raises:
        ValueError: naming a tensor that only one side has, or that cannot be copied.
    """
    if not theirs.keys() & ours.keys():
        raise ValueError("none of its tensors has a name that this network knows")
    for name in sorted(ours.keys() ^ theirs.keys()):
        has = "no tensor" if name in ours else "a further tensor"
        raise ValueError(f"is not of this network: it has {has} {name!r}")
    for name, tensor in theirs.items():
        if tensor.shape != ours[name].shape:
            shapes = f"{tuple(tensor.shape)} there and {tuple(ours[name].shape)} here"
            raise ValueError(f"is not of this network: {name!r} is {shapes}")
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            kind = f"{tensor.dtype} in {tensor.layout}"
            raise ValueError(f"{name!r} is of {kind}, not of floating-point numbers")
    for name, tensor in theirs.items():
        ours[name].copy_(tensor)


def import_pipeline(importer: Importer, file: Path, registry: Registry) -> Pipeline:
    """The pipeline, on the CPU, that an importer makes from a file of weights.

    Raises:
        CheckpointError: if the file cannot be read, or its weights are of another network.
    """
    state = read_state(file)
    with _naming(file):
        # A network that several processes trained is saved with "module." before each name.
        names = {name.removeprefix("module."): name for name in state}
        if len(names) < len(state):
            raise ValueError("has a tensor twice, with and without 'module.' before its name")
        state = {name: state[theirs] for name, theirs in names.items()}
        described = importer.describe(state)

    def complete(name: str, table: dict[str, Any]) -> dict[str, Any]:
        where = f"{file}: [{name}]"
        return registry.complete(PARTS[name], table, lambda _: where, common=COMMON.get(name)).plain

    tables = {name: complete(name, table) for name, table in described.tables.items()}
    saved = described.model_copy(update={"weights": f"imported from {file.name}", **tables})
    pipeline = Pipeline.from_saved(saved, registry, file)
    with _naming(file):
        importer.fill(pipeline.denoiser, state)
    return pipeline


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a ValueError explains itself; anything else comes from the file's content
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file}: {' '.join(reason.split())}") from error


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a torch file by name, on the CPU; code in the file is never executed.

    Raises:
        CheckpointError: if there is no such file, or it holds anything but tensors.
    """
    try:
        with opened(file) as content:
            state = torch.load(content, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnpicklingError:
        raise CheckpointError(f"{file}: is no file of torch's, or holds more than tensors") from None
    except (RuntimeError, EOFError, ValueError) as error:  # a damaged or truncated archive
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file}: cannot be read: {reason}") from None
    except Exception as error:  # bad bytes make torch's unpickler raise anything: KeyError, IndexError, ...
        raise CheckpointError(f"{file}: is no file of torch's ({type(error).__name__})") from None
    tensors = isinstance(state, dict) and all(isinstance(tensor, Tensor) for tensor in state.values())
    if not tensors or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{file}: holds no state dict, that is, tensors by name")
    return dict(state)
