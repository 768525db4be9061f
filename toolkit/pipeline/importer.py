"""Importers: weights that were trained with other code."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.errors import CheckpointError
from toolkit.files import opened
from toolkit.pipeline.folder import PARTS, Saved
from toolkit.pipeline.pipeline import Pipeline
from toolkit.registry.registry import Registry


class Importer(ABC):
    """Makes a pipeline from a foreign file of weights; `toolkit import` saves it.

    Such files hold only tensors by name: whatever else is needed is an option of the importer. The command
    line has a flag for the option "preset".
    """

    sample_shape: tuple[int, ...]
    num_classes: int | None = None
    tables: Mapping[str, dict[str, Any]]  # of the pipeline: schedule, network, sampler, start

    @abstractmethod
    def fill(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Copy the file's tensors into the network that `tables` describe.

        Raises:
            ValueError: if they are not weights of this network; the message says why.
        """


def import_pipeline(importer: Importer, file: Path, registry: Registry) -> Pipeline:
    """The pipeline, on the CPU, that an importer makes from a file of weights.

    Raises:
        CheckpointError: if the file cannot be read, or its weights are of another network.
    """
    state = read_state(file)
    saved = Saved(
        sample_shape=importer.sample_shape,
        num_classes=importer.num_classes,
        weights=f"imported from {file.name}",
        **{
            name: registry.resolve(kind, importer.tables[name])
            for name, kind in PARTS.items()
            if name in importer.tables
        },  # type: ignore[arg-type]
    )
    pipeline = Pipeline.from_saved(saved, registry, file)
    try:
        importer.fill(pipeline.denoiser, state)
    except Exception as error:  # a ValueError explains itself; anything else comes from the file's content
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file}: {' '.join(reason.split())}") from error
    return pipeline


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
