"""Files that are complete or absent: written under a temporary name, flushed to disk, then renamed."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from toolkit.errors import CheckpointError, RunError, printable

if TYPE_CHECKING:  # lists of runs are read without torch
    from torch import Tensor

TEMPORARY = ".writing-"
REPLACED = ".replaced-"
UNFINISHED = re.compile(rf"{re.escape(TEMPORARY)}(.+)-[0-9a-f]{{8}}")  # what `_beside` makes, nobody else's
LARGEST_TEXT = 2**28  # bytes; 100 times the metrics of a long run, and less than would fill the memory
LARGEST_HEADER = 2**24  # bytes of a safetensors file that name its tensors: ten times those of SDXL's network
MOST_TENSORS = 100_000


def opened(path: Path, *, follow: bool = True) -> BufferedReader:
    """Open a file to read its bytes: a regular one, because a pipe may block, and a device never end.

    All files that are not the user's own words on the command line are read by way of this.

    Args:
        path: of the file.
        follow: whether it may be a link, whose target may be anything that the user can read.

    Raises:
        OSError: if it cannot be read, is no regular file, or is a link that is not to be followed.
    """
    return os.fdopen(_descriptor(path, os.O_RDONLY, follow=follow), "rb")


def owned(path: Path, flags: int = 0) -> int:
    """The descriptor of a file of our own, made if there is none, to read and write: no link is followed.

    Raises:
        OSError: if it cannot be opened, is no regular file, or is a link.
    """
    return _descriptor(path, os.O_RDWR | os.O_CREAT | flags, follow=False)


def _descriptor(path: Path, flags: int, *, follow: bool) -> int:
    if not follow and path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, which is not followed", str(path))
    safe = os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)  # a pipe without a writer would block
    descriptor = os.open(path, flags | safe, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor


def read_text(path: Path, *, follow: bool = True, errors: str = "strict") -> str:
    """The text of a UTF-8 file of moderate size; see `opened`.

    Raises:
        OSError: if it cannot be read, or is too large to be text of ours.
        ValueError: if it is not UTF-8.
    """
    with opened(path, follow=follow) as file:
        content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise OSError(errno.EFBIG, f"it has more than {LARGEST_TEXT >> 20} MiB", str(path))
    return content.decode("utf-8", errors)


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
        target = "/".join(UNFINISHED.sub(r"\1", part) for part in str(path).split("/"))
        reason = reason.removeprefix("Error while serializing: I/O error: ")
        raise RunError(f"cannot write {target}: {reason}") from error


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A name beside `target` that no other writer uses; what is there when the block ends is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{uuid.uuid4().hex[:8]}")
    with _tidied(target.parent):
        try:
            yield temporary
        finally:
            _remove(temporary)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A temporary name that becomes `target`, whose folder is created, if the block succeeds."""
    with writing(target), _beside(target) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(target)


@contextmanager
def new_folder(
    target: Path, *, replace: bool = False, keep: Callable[[str], bool] = lambda name: name.startswith(".")
) -> Iterator[Path]:
    """A temporary folder that becomes `target` if the block succeeds, and is removed if it fails.

    Args:
        target: a folder, or the place of one.
        replace: whether one that is there is replaced.
        keep: of the names in it, those that the new one has too, unless it has its own; by default hidden
            files, which are the user's or the system's.
    """
    with writing(target), _beside(target) as temporary:
        temporary.mkdir()
        yield temporary
        for path in temporary.rglob("*"):
            _flush(path)
        old = target.with_name(f"{REPLACED}{target.name}")
        replacing = replace and os.path.lexists(target)
        if replacing and target.is_dir():
            for path in target.iterdir():
                if keep(path.name) and not UNFINISHED.fullmatch(path.name):
                    _link(path, temporary / path.name)
        _flush(temporary)
        if replacing:
            _remove(old)
            target.rename(old)
        try:
            temporary.rename(target)
        except BaseException:
            if replacing:
                old.rename(target)
            raise
        _flush(target.parent)
        _remove(old)


def settle(path: Path) -> None:
    """Complete or undo what a killed process was replacing at `path`, beside it, or up to two folders below.

    Each command does so to the path that it is given, whether it writes there or reads.
    """
    for folder in (path.parent, path, *_within(path, 2)):
        with suppress(OSError), _tidied(folder):  # nothing there, or not ours to tidy
            pass


def _within(path: Path, depth: int) -> Iterator[Path]:
    """The folders in a folder, down to `depth`; links are not followed."""
    with suppress(OSError):
        for entry in list(os.scandir(path)) if depth else ():
            if entry.is_dir(follow_symlinks=False):
                yield path / entry.name
                yield from _within(path / entry.name, depth - 1)


@contextmanager
def _tidied(folder: Path) -> Iterator[None]:
    """Hold a folder while writing into it, after tidying up what killed processes have left there.

    All writers share a lock of the folder. Who gets it alone knows that unfinished names there are nobody's.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # there is a writer; or a file system without locks, where all is left alone
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_leftovers(folder)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child process may have the descriptor too
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Put back what a killed process was replacing, and remove what it had not finished."""
    for name in os.listdir(folder):
        path = folder / name
        with suppress(OSError):  # somebody else's in a shared folder
            if name.startswith(REPLACED):
                target = path.with_name(name.removeprefix(REPLACED))
                _remove(path) if os.path.lexists(target) else path.rename(target)
            elif UNFINISHED.fullmatch(name):
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(path: Path, other: Path) -> None:
    """Have a file or folder in two places, until one of them is removed."""
    if os.path.lexists(other):
        return
    if path.is_dir() and not path.is_symlink():
        other.mkdir()
        for inner in path.iterdir():
            _link(inner, other / inner.name)
        return
    try:
        os.link(path, other, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(path, other, follow_symlinks=False)


def refuse_foreign(folder: Path, foreign: Callable[[list[str]], list[str]], what: str, choose: str) -> None:
    """Refuse to write into, or to replace, what somebody else may miss.

    Args:
        folder: a folder, or the place of one.
        foreign: of the names in it, those that are not ours; hidden ones are no reason, and stay.
        what: the folder is to be, "run" for example.
        choose: the setting by which another is chosen.

    Raises:
        RunError: if there is a file, or a folder that holds other files, or it cannot be looked at.
    """
    settle(folder)
    with writing(folder):  # even looking may be forbidden
        is_folder = folder.is_dir()
        is_file = not is_folder and folder.exists()
        names = sorted(path.name for path in folder.iterdir()) if is_folder else []
    if is_file:
        raise RunError(f"{folder}: is a file, not a folder for a {what}")
    if others := [name for name in foreign(names) if not name.startswith(".")]:
        raise RunError(
            f"{folder}: is not a {what} folder, it holds other files ({others[0]}): choose another {choose}"
        )


def refuse_taken(target: Path, overwrite: bool, flag: str) -> None:
    """Refuse a file, or a folder with something in it, that was not to be overwritten.

    Raises:
        RunError: naming the flags that help.
    """
    settle(target)
    taken = target.exists() and (target.is_file() or any(target.iterdir()))
    if taken and not overwrite:
        raise RunError(f"{target}: is already there; give --overwrite to replace it, or another {flag}")


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
    with new_file(path) as temporary:
        save_file(held, temporary, metadata={"format": "pt"})
        temporary.chmod(0o666 & ~_umask())  # safetensors writes mode 0600, which colleagues cannot read


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
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(
    path: Path, refuse: Callable[[str], Exception] = CheckpointError, *, follow: bool = True
) -> dict[str, Any]:
    """The object in a JSON file, as a dict; if it cannot be read, or is none, raises `refuse(reason)`."""
    try:
        content = json.loads(read_text(path, follow=follow))
    except OSError as error:
        raise refuse(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise refuse(f"{path}: cannot be read: {error}") from None
    except RecursionError:
        raise refuse(f"{path}: cannot be read: it is nested too deep") from None
    if not isinstance(content, dict):
        raise refuse(f"{path}: is not a JSON object")
    return content


def read_tensors(path: Path, refuse: Callable[[str], Exception] = CheckpointError) -> "dict[str, Tensor]":
    """The tensors in a safetensors file, on the CPU; if it cannot be read, raises `refuse(reason)`."""
    from safetensors import safe_open

    try:
        with opened(path) as file:
            header = int.from_bytes(file.read(8), "little")
        if header > LARGEST_HEADER:
            raise refuse(f"{path}: cannot be read: its header has {header:,} bytes, more than any network's")
        with safe_open(path, framework="pt") as tensors:
            names = tensors.keys()
            if len(names) > MOST_TENSORS:
                raise refuse(
                    f"{path}: cannot be read: it has {len(names):,} tensors, {MOST_TENSORS:,} at most"
                )
            return {name: tensors.get_tensor(name) for name in names}
    except OSError as error:
        raise refuse(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise refuse(f"{path}: cannot be read: {error}") from None


def sha256_of(path: Path) -> str:
    with opened(path) as file:
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
                total.update(content.numpy())
        elif isinstance(part, bytes):
            total.update(part)
        else:
            total.update(
                part.encode() if isinstance(part, str) else json.dumps(part, sort_keys=True).encode()
            )
    return total.hexdigest()


def mismatch(
    expected: "Mapping[str, Tensor]", actual: "Mapping[str, Tensor]", *, exact: bool = False
) -> str | None:
    """The first reason why a state does not fit where another is expected; None if it fits.

    Floating-point numbers of any width fit each other, unless types are to be `exact`.
    """
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            return f"it lacks {name!r}"
        if name not in expected:
            return f"it has {printable(repr(name))}, which is unknown here"
        if actual[name].shape != expected[name].shape:
            there, here = tuple(actual[name].shape), tuple(expected[name].shape)
            return f"{name!r} has shape {there} there and {here} here"
        numbers, wanted = actual[name].dtype, expected[name].dtype
        alike = not exact and numbers.is_floating_point and wanted.is_floating_point
        if numbers != wanted and not alike:
            return f"{name!r} is of {numbers} there and of {wanted} here"
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
