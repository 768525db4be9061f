"""Weights that were trained with somebody else's code."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.denoiser import Denoiser
from toolkit.description import Description
from toolkit.errors import CheckpointError
from toolkit.initialiser import Initialiser
from toolkit.pipeline import Pipeline
from toolkit.registry import Registry
from toolkit.sampler import Sampler
from toolkit.schedule import NoiseSchedule

KINDS = {"schedule": NoiseSchedule, "network": Denoiser, "sampler": Sampler, "initialiser": Initialiser}


class Importer(ABC):
    """Makes a pipeline of a foreign file of weights, which `toolkit import` saves.

    Such files hold names and tensors only: what they leave open is an option of the importer. "preset" is the
    one that the command line has a flag for.
    """

    sample_shape: tuple[int, ...]
    num_classes: int | None = None
    tables: Mapping[str, dict[str, Any]]  # of the pipeline: schedule, network, sampler, initialiser

    @abstractmethod
    def fill(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Copy the file's tensors into the network that `tables` describe.

        Raises:
            ValueError: saying why, if they are not its weights.
        """


def import_pipeline(importer: Importer, file: Path, registry: Registry) -> Pipeline:
    """The pipeline that a file of weights makes.

    Raises:
        CheckpointError: if it cannot be read, or its weights are of another network.
    """
    state = read_state(file)
    tables = {name: registry.resolve(kind, importer.tables[name]) for name, kind in KINDS.items()}
    about = {"weights": f"imported from {file.name}"}
    description = Description(tables, importer.sample_shape, importer.num_classes, about)
    pipeline = Pipeline.from_description(description, registry, str(file))
    try:
        importer.fill(pipeline.denoiser, state)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    return pipeline


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a torch file by name, on the CPU; code in it is never executed.

    Raises:
        CheckpointError: if there is no such file, or it holds anything but tensors.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnpicklingError:
        raise CheckpointError(f"{file}: is no file of torch's, or holds more than tensors") from None
    except (RuntimeError, EOFError, ValueError) as error:  # a damaged or truncated archive
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file}: cannot be read: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{file}: holds no state dict, that is, tensors by name")
    return {str(name): tensor for name, tensor in state.items()}
