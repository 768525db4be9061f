"""Whether every command answers whatever a run folder holds, and touches nothing outside.

    python benchmarks/edited_folders.py [--count 200] [--first 0] [--limit 60]

Each trial copies a small run and edits one of its files as damage, another version or a stranger with
intentions would, by a random generator with a seed of its own. Then commands read the folder. A trial is
"answered" if each of them gives its result, or exit code 2 and text that a terminal can show, and nothing
outside has changed. Every other end is a fault: a traceback, another exit code, or more than `--limit`
seconds of computing.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bad_recipes import TooLong, time_limit
from click.testing import CliRunner

from toolkit.cli import main as toolkit

COMMANDS = [
    ["runs", "."], ["compare", "run"], ["sample", "run", "--num", "1", "--out", "grid.png", "--overwrite"],
    ["sample", "run/pipeline", "--num", "1", "--out", "grid.png", "--overwrite", "--save", "saved"],
    ["evaluate", "run", "--metrics", "sliced_wasserstein", "--num", "2", "--set", "images.real=2"],
    ["train", "run/recipe.toml", "--resume", "--set", "run.out=run", "--set", "run.steps=5"],
]  # fmt: skip
OURS = {"run", "outside", "grid.png", "grid.npy", "saved"}  # what the commands leave
SMALL = [
    "run.steps=4", "run.batch_size=4", "run.out=original", "checkpoints.every=2", "samples.num=1",
    "schedule.num_train_timesteps=10", "networks.denoiser.block_out_channels=[8, 8]",
    "networks.denoiser.norm_num_groups=4", "networks.denoiser.attention_head_dim=8",
]  # fmt: skip
SCORE = {"metric": "fid", "time": 1.0, "values": {"fid": 1.0, "fid_std": 0.1}, "curves": {}, "notes": [],
         "better": {"fid": "lower"}, "fingerprint": "ab", "protocol": {"real": {"num": 2}},
         "model": {"steps": 4, "weights": "ema", "identity": "x"}}  # fmt: skip

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


def trial(original: Path, seed: int, limit: int) -> tuple[str, list[str]]:
    """Edit a copy of a run in the working directory and have every command read it.

    Returns:
        What was done to it, and every fault.
    """
    run, outside, faults = Path("run"), Path("outside"), []
    shutil.copytree(original, run)
    (run / "scores").mkdir()
    (run / "scores" / "fid.json").write_text(json.dumps(SCORE))
    outside.mkdir()
    (outside / "mine.txt").write_text("years of work")
    done = edit(run, outside.absolute(), seed)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    for command in COMMANDS:
        try:
            with time_limit(limit):
                result = CliRunner().invoke(toolkit, command)
        except TooLong:
            faults.append(f"{command}: too long")
            continue
        text = all(char.isprintable() or char in "\n\t" for char in result.output)
        if result.exit_code not in (0, 2) or not text or len(result.output) > 20_000:
            faults.append(
                f"{command}: {result.exit_code}, {result.exception!r}, {ascii(result.output)[-2000:]}"
            )
    if {path.name: path.read_bytes() for path in outside.iterdir()} != before:
        faults.append("files outside were changed")
    faults += [f"{path.name} was left" for path in Path().iterdir() if path.name not in OURS]
    return done, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="number of folders")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--limit", type=int, default=60, help="seconds of computing for each command")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    counts: Counter[str] = Counter()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        flags = [f"--set={value}" for value in SMALL]
        trained = CliRunner().invoke(toolkit, ["train", "quickstart", *flags], catch_exceptions=False)
        assert trained.exit_code == 0, trained.output
        for seed in range(arguments.first, arguments.first + arguments.count):
            folder = Path(temporary, str(seed))
            folder.mkdir()
            os.chdir(folder)
            done, faults = trial(Path(temporary, "original"), seed, arguments.limit)
            counts["faulty" if faults else "answered"] += 1
            for fault in faults:
                print(f"{seed} {done}: {fault}", flush=True)
            os.chdir(temporary)
            shutil.rmtree(folder)
    print(f"{arguments.count} folders: " + ", ".join(f"{count} {end}" for end, count in counts.most_common()))
    print(f"{(time.process_time() - start) / arguments.count:.1f} s of computing each")
    sys.exit("faulty" in counts)


if __name__ == "__main__":
    main()
