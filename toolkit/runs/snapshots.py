"""Snapshots of a run's averages, from which averages of other widths are made afterwards.

snapshots/<role>/step-0001000/
    <width>.safetensors   the average of that relative width, one file for each
    snapshot.json         step, updates of the averages, and of each width its size and SHA-256
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.errors import CheckpointError, RunError
from toolkit.files import new_folder, read_json, read_tensors, settle, sha256_of, write_json, write_tensors
from toolkit.runs.layout import step_name

if TYPE_CHECKING:  # lists are made without torch
    from torch import Tensor

FOLDER = "snapshots"
DESCRIPTION = "snapshot.json"
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Snapshot:
    """An average of a role's weights as it was after a step.

    Attributes:
        role: of the network.
        step: steps of the run.
        updates: of the average: optimizer steps of the role.
        width: relative width of its power function.
        size: bytes of its file.
    """

    role: str
    step: int
    updates: int
    width: float
    size: int
    path: Path = field(repr=False)
    sha256: str = field(repr=False)

    def read(self) -> "dict[str, Tensor]":
        """The state of the network, averaged.

        Raises:
            CheckpointError: if the file is missing, or is not the one that was written.
        """
        try:
            altered = sha256_of(self.path) != self.sha256
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        if altered:
            raise CheckpointError(f"{self.path}: was altered, its checksum is not that in {DESCRIPTION}")
        return read_tensors(self.path)


class _File(BaseModel):
    model_config = ConfigDict(strict=True)

    size: int
    sha256: str


class _Description(BaseModel):
    """The content of snapshot.json."""

    step: Count
    updates: Count
    widths: dict[Annotated[str, Field(pattern=r"^0\.\d+$|^\d\.?\d*e-\d+$")], _File]


def write_snapshot(
    run: Path, role: str, step: int, updates: int, states: "Mapping[float, Mapping[str, Tensor]]"
) -> None:
    """Write the averages of a role after a step, by width; the folder is complete, or absent."""
    with new_folder(run / FOLDER / role / step_name(step), replace=True) as temporary:
        files = {str(width): temporary / _file(str(width)) for width in states}
        for file, state in zip(files.values(), states.values(), strict=True):
            write_tensors(file, state)
        write_json(temporary / DESCRIPTION, {
            "step": step,
            "updates": updates,
            "widths": {
                width: {"size": file.stat().st_size, "sha256": sha256_of(file)}
                for width, file in files.items()
            },
        })  # fmt: skip


def read_snapshots(run: Path) -> list[Snapshot]:
    """All snapshots in a run folder, of all roles, in order of step and width; none if it keeps none.

    Raises:
        RunError: if there is no run, or a description cannot be read.
    """
    settle(run)
    if not (run / "recipe.toml").is_file():
        raise RunError(f"{run}: no run here: it has no recipe.toml")
    result: list[Snapshot] = []
    for path in run.glob(f"{FOLDER}/*/step-*/{DESCRIPTION}"):
        try:
            described = _Description.model_validate(read_json(path, RunError, follow=False))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RunError(f"{path}: is not the description of a snapshot: {where}: {first['msg']}") from None
        for width, file in described.widths.items():
            result.append(
                Snapshot(
                    path.parent.parent.name, described.step, described.updates, float(width), file.size,
                    path.parent / _file(width), file.sha256,
                )
            )  # fmt: skip
    return sorted(result, key=lambda one: (one.role, one.step, one.width))


def forget_snapshots_after(run: Path, step: int) -> None:
    """Remove the snapshots of steps that a resumed run takes again."""
    for path in run.glob(f"{FOLDER}/*/step-*"):
        number = path.name.removeprefix("step-")
        if number.isdecimal() and int(number) > step:
            shutil.rmtree(path)


def _file(width: str) -> str:
    return f"{width}.safetensors"
