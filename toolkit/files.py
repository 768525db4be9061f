"""Files that are complete or not there: written under a temporary name, flushed to disk, then renamed."""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from toolkit.errors import CheckpointError, RunError

TEMPORARY = ".writing-"
REPLACED = ".replaced-"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say where and why a file could not be written.

    Raises:
        RunError: no space left, no permission, a read-only file system.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        shown = re.sub(rf"{re.escape(TEMPORARY)}([^/]+)-[0-9a-f]{{8}}", r"\1", str(path))
        reason = reason.removeprefix("Error while serializing: I/O error: ")
        raise RunError(f"cannot write {shown}: {reason}") from error


def temporary_for(path: Path) -> Path:
    """A name beside `path` that no other writer of it has, in this process or another."""
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well, and vanishes when it does not."""
    temporary = temporary_for(target)
    with writing(target):
        temporary.mkdir(parents=True)
        old = target.with_name(f"{REPLACED}{target.name}")
        try:
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                _flush(path)
            if replace and target.exists():
                target.rename(old)
            temporary.rename(target)
            _flush(target.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_leftovers(folder: Path) -> None:
    """Tidy up after a killed process: put back what it was replacing, remove what it had not finished."""
    for path in folder.glob(f"{REPLACED}*"):
        target = path.with_name(path.name.removeprefix(REPLACED))
        shutil.rmtree(path) if target.exists() else path.rename(target)
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, replaced as a whole; tied weights and views of one storage keep all their names."""
    seen: set[int] = set()
    held = {}
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        storage = own.untyped_storage().data_ptr()
        held[name] = own.clone() if storage in seen else own
        seen.add(storage)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_for(path)
        try:
            save_file(held, temporary, metadata={"format": "pt"})
            temporary.chmod(0o666 & ~_umask())  # safetensors writes mode 0600, which colleagues cannot read
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text file, replaced as a whole."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_for(path)
        try:
            temporary.write_text(text, encoding="utf-8")
            _flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: if it cannot be read, or holds something else.
    """
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{path}: cannot be read: it is nested too deep") from None
    if not isinstance(stated, dict):
        raise CheckpointError(f"{path}: is no JSON object")
    return stated


def read_tensors(path: Path, refuse: Callable[[str], Exception] = CheckpointError) -> dict[str, Tensor]:
    """The tensors in a safetensors file; raises what `refuse` makes of the reason if it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise refuse(f"{path}: cannot be read: {error}") from None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_state(state: Mapping[str, Tensor], facts: object) -> str:
    """A hash of named tensors, wherever they are, and of what else there is to say, as JSON."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_space(folder: Path, needed: int) -> None:
    """Find out before any compute is spent whether a file of `needed` bytes would fit.

    Raises:
        RunError: if the disk has less space left.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"cannot write {folder}: no space, {needed / 2**20:,.1f} MiB needed and {free / 2**20:,.1f} free"
        )
