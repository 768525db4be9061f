"""Files that are complete or absent: written under a temporary name, flushed to disk, then renamed."""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from toolkit.errors import CheckpointError, RunError

if TYPE_CHECKING:  # lists of runs are read without torch
    from torch import Tensor

TEMPORARY = ".writing-"
REPLACED = ".replaced-"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report where and why a file could not be written.

    Args:
        path: the file or folder that the block writes, for the message.

    Raises:
        RunError: if there is no space left, no permission, or a read-only file system.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        target = re.sub(rf"{re.escape(TEMPORARY)}([^/]+)-[0-9a-f]{{8}}", r"\1", str(path))
        reason = reason.removeprefix("Error while serializing: I/O error: ")
        raise RunError(f"cannot write {target}: {reason}") from error


def temporary_for(path: Path) -> Path:
    """A name beside `path` that no other writer uses, in this process or another."""
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `target` if the block succeeds, and is removed if it fails."""
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


def refuse_foreign(folder: Path, foreign: Callable[[list[str]], list[str]], what: str, choose: str) -> None:
    """Refuse to write into, or to replace, what somebody else may miss.

    Args:
        folder: a folder, or the place of one.
        foreign: of the names in it, those that are not ours.
        what: the folder is to be, "run" for example.
        choose: the setting by which another is chosen.

    Raises:
        RunError: if there is a file, or a folder that holds other files, or it cannot be looked at.
    """
    with writing(folder):  # even looking may be forbidden
        is_folder = folder.is_dir()
        is_file = not is_folder and folder.exists()
        names = sorted(path.name for path in folder.iterdir()) if is_folder else []
    if is_file:
        raise RunError(f"{folder}: is a file, not a folder for a {what}")
    if others := foreign(names):
        raise RunError(
            f"{folder}: is not a {what} folder, it holds other files ({others[0]}): choose another {choose}"
        )


def refuse_taken(target: Path, overwrite: bool, flag: str) -> None:
    """Refuse a file, or a folder with something in it, that was not to be overwritten.

    Raises:
        RunError: naming the flags that help.
    """
    taken = target.exists() and (target.is_file() or any(target.iterdir()))
    if taken and not overwrite:
        raise RunError(f"{target}: is already there; give --overwrite to replace it, or another {flag}")


def remove_leftovers(folder: Path) -> None:
    """Tidy up after a killed process: put back what it was replacing, remove what it had not finished."""
    for path in folder.glob(f"{REPLACED}*"):
        target = path.with_name(path.name.removeprefix(REPLACED))
        shutil.rmtree(path) if target.exists() else path.rename(target)
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write a safetensors file as a whole; tied weights and views of one storage keep all their names."""
    from safetensors.torch import save_file

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
    """Write a JSON file, which is replaced as a whole; its folder is created.

    Raises:
        RunError: if it cannot be written.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, which is replaced as a whole; its folder is created.

    Raises:
        RunError: if it cannot be written.
    """
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
    """The object in a JSON file, as a dict.

    Raises:
        CheckpointError: if it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    except RecursionError:
        raise CheckpointError(f"{path}: cannot be read: it is nested too deep") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return content


def read_tensors(path: Path, refuse: Callable[[str], Exception] = CheckpointError) -> "dict[str, Tensor]":
    """The tensors in a safetensors file, on the CPU; if it cannot be read, raises `refuse(reason)`."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise refuse(f"{path}: cannot be read: {error}") from None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """SHA-256 of tensors, of state dicts by name, of texts and bytes, and of JSON values, in their order.

    Tensors count by shape and content, wherever they are.
    """
    import torch

    total = hashlib.sha256()
    for part in parts:
        named = {"": part} if isinstance(part, torch.Tensor) else part
        if isinstance(named, Mapping) and any(isinstance(value, torch.Tensor) for value in named.values()):
            for name, tensor in sorted(named.items()):
                content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                total.update(f"{name} {tuple(tensor.shape)}".encode())
                total.update(content.numpy().tobytes())
        elif isinstance(part, bytes):
            total.update(part)
        else:
            total.update(
                part.encode() if isinstance(part, str) else json.dumps(part, sort_keys=True).encode()
            )
    return total.hexdigest()


def mismatch(expected: "Mapping[str, Tensor]", actual: "Mapping[str, Tensor]") -> str | None:
    """The first reason why a state does not fit where another is expected; None if it fits."""
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            return f"it lacks {name!r}"
        if name not in expected:
            return f"it has {name!r}, which is unknown here"
        if actual[name].shape != expected[name].shape:
            there, here = tuple(actual[name].shape), tuple(expected[name].shape)
            return f"{name!r} has shape {there} there and {here} here"
    return None


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
    """Check, before any compute is spent, that a file of `needed` bytes would fit.

    Raises:
        RunError: if the disk has less space left.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"cannot write {folder}: no space, {needed / 2**20:,.1f} MiB needed and {free / 2**20:,.1f} free"
        )
