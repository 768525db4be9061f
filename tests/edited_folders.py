"""Edits of a run folder such as damage, another version or a stranger with intentions leaves, from a seed."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

ABSURD: list[Any] = [
    None, True, -1, 0, 1e308, 10**30, "", "x", "../../outside", "/etc/passwd", "~", "\x1b[31m", "$x^$", [],
    {}, [[]], {"type": "folder", "path": "/"}, {"type": "datasets", "path": "a/b"}, ["x"] * 3, 2**63, "none",
]  # fmt: skip
RAW = ["1e400", "NaN", "[" * 5000, '{"a": 1, "a": 2}', "\\ud800", "1" * 5000]


def edit(run: Path, outside: Path, seed: int) -> str:
    """Edit one file of a run folder; returns what was done to it."""
    rng = random.Random(seed)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    by_suffix = [file for file in files if file.suffix in (".json", ".jsonl", ".toml")]
    file = rng.choice(by_suffix if rng.random() < 0.65 else files)
    edits = [_flip, _truncate, _empty, _noise, _link, _pipe, _folder, _missing]
    edits = [_value, _value, _value, _without, _raw] * 3 + edits if file.suffix == ".json" else edits
    edits = [_header] * 4 + edits if file.suffix == ".safetensors" else edits
    if rng.random() < 0.2:  # a folder of diffusers' own
        (run / "pipeline" / "pipeline.json").unlink(missing_ok=True)
    chosen = rng.choice(edits)
    if file.exists():
        chosen(file, outside, rng)
    return f"{chosen.__name__} {file.relative_to(run)}"


def _flip(file: Path, outside: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes() or b"\0")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def _truncate(file: Path, outside: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content) + 1)])


def _empty(file: Path, outside: Path, rng: random.Random) -> None:
    file.write_bytes(b"")


def _noise(file: Path, outside: Path, rng: random.Random) -> None:
    file.write_bytes(rng.randbytes(200))


def _link(file: Path, outside: Path, rng: random.Random) -> None:
    target = outside / file.name
    shutil.copy(file, target)
    file.unlink()
    file.symlink_to(target)


def _pipe(file: Path, outside: Path, rng: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path, outside: Path, rng: random.Random) -> None:
    file.unlink()
    file.mkdir()


def _missing(file: Path, outside: Path, rng: random.Random) -> None:
    file.unlink()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Each container in a value, with each of its keys."""
    if not isinstance(value, (dict, list)) or not value:
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


def _value(file: Path, outside: Path, rng: random.Random) -> None:
    content = json.loads(file.read_text())
    if places := _places(content):
        container, key = rng.choice(places)
        container[key] = rng.choice(ABSURD)
    file.write_text(json.dumps(content))


def _without(file: Path, outside: Path, rng: random.Random) -> None:
    content = json.loads(file.read_text())
    if places := _places(content):
        container, key = rng.choice(places)
        del container[key]
    file.write_text(json.dumps(content))


def _raw(file: Path, outside: Path, rng: random.Random) -> None:
    content = json.loads(file.read_text())
    if places := _places(content):
        container, key = rng.choice(places)
        container[key] = "RAW"
    file.write_text(json.dumps(content).replace('"RAW"', rng.choice(RAW)))


def _header(file: Path, outside: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if places := _places(header):
        container, key = rng.choice(places)
        container[key] = rng.choice([*ABSURD, "I8", "F64", [2**40], [0, 2**40], [1, 1]])
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
