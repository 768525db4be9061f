"""Mistakes that nobody thought of: a good recipe, altered at random, and what `toolkit train` answers.

Each alteration is a mistake by construction, so each has to be refused: exit code 2, no traceback, and a line
that begins with "error:" and says in which file and line, or which flag. Mistakes that somebody did think of
are in test_bad_input.py.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny import TINY_DDPM

from toolkit.cli import main

LINES = TINY_DDPM.strip().splitlines()
HEADERS = [number for number, line in enumerate(LINES) if line.startswith("[")]
VALUES = [number for number, line in enumerate(LINES) if " = " in line]


def key_of(line: str) -> str:
    return line.partition(" = ")[0]


@dataclass(frozen=True)
class Mistake:
    """A recipe that is wrong, with the files beside it and the flags that it is given."""

    recipe: bytes
    flags: tuple[str, ...] = ()
    beside: dict[str, str] = field(default_factory=dict)
    where: str = r"bad\.toml:\d+: |--set "


def changed(number: int, line: str) -> Mistake:
    return Mistake("\n".join([*LINES[:number], line, *LINES[number + 1 :]]).encode())


# No option of that recipe takes any of these.
WRONG = [
    "nan", "inf", "-inf", "1e999", "1979-05-27", "07:32:00", "{}", "{ a = 1 }", "[[[]]]", "[{}]",
    '["", 1]', "[nan]",
    '"\\u0000"', '"\\n[run]"', '"nan"', '""', f'"{"x" * 3000}"', "-1", "-0.5", str(2**63), str(10**300),
    f"-{10**30}",
    f'{"[" * 15}{"]" * 15}', "{ type = 1 }", '{ type = "digits", type2 = 1 }',
]  # fmt: skip
wrong_values = st.builds(
    lambda number, value: changed(number, f"{key_of(LINES[number])} = {value}"),
    st.sampled_from(VALUES), st.sampled_from(WRONG),
)  # fmt: skip

# Too much for any machine; a long run, or a large batch in small parts, is nobody's mistake.
HUGE = ["num_train_timesteps = {}", "block_out_channels = [{0}, {0}]", "norm_num_groups = {}", "seed = {}"]
huge_numbers = st.builds(
    lambda line, number: Mistake(
        "\n".join(
            line.format(number) if key_of(kept) == key_of(line) else kept
            for kept in ["[run]", "seed = 0", *LINES[1:]]
        ).encode()
    ),
    st.sampled_from(HUGE), st.sampled_from([2**63, 2**64, 10**30, 10**300]) | st.integers(2**63, 2**200),
) | st.builds(
    lambda line, number: changed(
        next(i for i in VALUES if key_of(LINES[i]) == key_of(line)), line.format(number)
    ),
    st.sampled_from(HUGE[:3]), st.sampled_from([10**13, 10**15, 2**62, 2**63 - 1]),
)  # fmt: skip

names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12).map(lambda text: f"zz_{text}")
unknown_keys = st.builds(
    lambda number, name, value: changed(number, f"{LINES[number]}\n{name} = {value}"),
    st.sampled_from(HEADERS), names | st.sampled_from(['"\\u0000"', '"../x"', '"a b"', '""', "'é'"]),
    st.sampled_from(["1", '"x"', "{}", "nan"]),
)  # fmt: skip
unknown_tables = st.builds(
    lambda name: Mistake(f"{TINY_DDPM}\n[{name}]\na = 1".encode()),
    names
    | st.sampled_from(["objective.time", "networks.denoiser.x", 'networks."../x"', "run.x.y", '""', "[run]"]),
)


def misspell(text: str, place: int, how: str) -> str:
    at = place % len(text)
    return {
        "double": text[:at] + text[at] + text[at:],
        "drop": text[:at] + text[at + 1 :] if len(text) > 1 else "q",
        "other": f"{text[:at]}q{text[at + 1 :]}",
        "upper": text.upper(),
    }[how]


hows = st.sampled_from(["double", "drop", "other", "upper"])
misspelt_keys = st.builds(
    lambda number, place, how: changed(
        number, LINES[number].replace(key_of(LINES[number]), misspell(key_of(LINES[number]), place, how), 1)
    ),
    st.sampled_from(VALUES), st.integers(0, 30), hows,
)  # fmt: skip
misspelt_types = st.builds(
    lambda number, place, how: changed(number, f'type = "{misspell(LINES[number][8:-1], place, how)}"'),
    st.sampled_from([number for number in VALUES if LINES[number].startswith("type = ")]), st.integers(0, 30),
    hows.filter(lambda how: how != "drop"),  # "adam" is as good as "adamw"
)  # fmt: skip
misspelt_tables = st.builds(
    lambda number, place, how: changed(
        number, f"[{misspell(LINES[number][1:-1].split('.')[0], place, how)}]"
    ),
    st.sampled_from(HEADERS), st.integers(0, 30), hows,
)  # fmt: skip


def extending(parents: str, **beside: str) -> Mistake:
    files = {f"{name}.toml": text for name, text in beside.items()}
    return Mistake(
        f"extends = {parents}\n{TINY_DDPM}".encode(), beside=files, where=r"bad\.toml:1: |extends itself"
    )


extends = st.sampled_from([
    extending('"bad.toml"'),
    extending('["./bad.toml"]'),
    extending('["a.toml"]', a='extends = "b.toml"', b='extends = ["bad.toml"]'),
    extending('["a.toml"]', a='extends = "a.toml"'),
    extending('["a.toml"]', a='extends = "nowhere.toml"'),
    extending('["a.toml"]', a="x = "),
    extending('["nowhere.toml"]'),
    extending('["nowhere"]'),
    extending('["../"]'),
    extending('["/"]'),
    extending('["http://localhost/x.toml"]'),
    extending('["\\u0000.toml"]'),
    extending(f'["{"x" * 5000}.toml"]'),
    extending('""'),
    extending("1"),
    extending("{ a = 1 }"),
    extending("[[]]"),
    extending("nan"),
])  # fmt: skip
encodings = st.sampled_from([
    TINY_DDPM.encode("utf-16"),
    TINY_DDPM.encode("utf-32"),
    b"\xff" + TINY_DDPM.encode(),
    f"{TINY_DDPM}# é".encode("latin-1"),
    TINY_DDPM.encode() + b"\xed\xa0\x80",
    TINY_DDPM.encode() + b"\0",
    b"\x80",
    b"\x89PNG\r\n\x1a\n",
    b"[" * 100_000,
    b"x = " + b"[" * 50_000,
    b"#" * 2_000_000,
    b"",
]).map(lambda recipe: Mistake(recipe, where=r"bad\.toml"))  # fmt: skip
syntax = st.builds(
    lambda number, line: replace(changed(number, f"{LINES[number]}\n{line}"), where=r"bad\.toml:"),
    st.sampled_from(HEADERS),
    st.sampled_from([
        "a", "a =", "= 1", "a == 1", "a = 'x", 'a = """', "a = [", "a = {", "a = 1 b = 2", "[a", "a = 01",
        "a = 1\na = 2",
        "[run]\n[run]", "a.b = 1\na = 2", "a = tru", '"a" "b" = 1', "a = 1_", 'a = "\\q"', "a = {\n}x",
    ]),
)  # fmt: skip


def flagged(*flags: str) -> Mistake:
    return Mistake(TINY_DDPM.encode(), flags, where="--set |error: cannot write ")


flags = st.sampled_from([
    "", "=", "x", "run.steps", "=1", ".=1", "run.=1", "run..steps=1", "run.steps=", "run.steps=-1",
    "run.steps=nan",
    "run.steps=1e3", "run.steps=[1]", "run=1", "run.stepz=1", "extends=quickstart", "unset=nowhere",
    "unset=[1]",
    "networks.denoizer.type=unet", "objective.type=ddppm", "optimizers.denoiser.lr=nan", "run.out=\0",
    f"run.out={'x' * 5000}", f"run.out={'x' * 300}", "a" * 5000 + "=1", "ema.denoiser.decay=1",
    "run.precision=fp8",
    "data.path=x", 'data={type="folder", path="~nobody/x"}', f'data={{type="folder", path="{"x" * 5000}"}}',
    f'data={{type="datasets", path="{"x" * 5000}"}}', 'data={type="folder", path="\\u0000"}',
    f'networks.denoiser.init_from="{"x" * 5000}"', 'networks.denoiser.init_from="\\u0000"', "run.\udcff=1",
]).map(flagged) | st.text(max_size=8).filter(lambda text: "=" not in text).map(flagged)  # fmt: skip

NO_PATHS = ["x" * 5000, "/".join(["x" * 200] * 21), "/tmp" + f"/{'x' * 200}" * 20 + f"/{'y' * 50}"]


def weights_at(option: str, path: str) -> Mistake:
    key = f"networks.denoiser.{option}"
    return Mistake(TINY_DDPM.encode(), (f'{key}="{path}"',), where=f"--set {key}=")


mistakes = (
    wrong_values | huge_numbers | unknown_keys | unknown_tables | misspelt_keys | misspelt_types
    | misspelt_tables | extends | encodings | syntax | flags
)  # fmt: skip


def write(mistake: Mistake) -> list[str]:
    Path("bad.toml").write_bytes(mistake.recipe)
    for name, text in mistake.beside.items():
        Path(name).write_text(text)
    return ["train", "bad.toml", *(f"--set={flag}" for flag in mistake.flags)]


def is_refused(code: int, output: str, where: str) -> None:
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2 and "Traceback" not in output, output
    assert any(re.search(where, line) for line in errors), output
    assert all(len(line) < 12_000 and line.isprintable() for line in errors), output


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mistake=mistakes)
@example(mistake=weights_at("init_from", NO_PATHS[0]))
@example(mistake=weights_at("init_from", NO_PATHS[1]))
@example(mistake=weights_at("init_from", NO_PATHS[2]))
@example(mistake=weights_at("from_run", NO_PATHS[0]))
@example(mistake=weights_at("from_run", NO_PATHS[2]))
def test_any_mistake_in_a_recipe_is_refused_with_its_place(mistake: Mistake) -> None:
    result = CliRunner().invoke(main, write(mistake))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    is_refused(result.exit_code, result.output, mistake.where)
    assert not list(Path("runs").glob("*/metrics.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [
    changed(VALUES[0], "batch_size = nan"),
    changed(VALUES[-1], "mun = 4"),
    extending('["a.toml"]', a='extends = "bad.toml"'),
    Mistake(TINY_DDPM.encode("utf-16"), where=r"bad\.toml"),
    flagged("run.steps"),
], ids=["nan", "misspelt", "cycle", "utf-16", "flag"])  # fmt: skip
def test_a_process_says_the_same_and_exits_with_2(mistake: Mistake) -> None:
    command = [sys.executable, "-m", "toolkit", *write(mistake)]
    done = subprocess.run(
        command, capture_output=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    is_refused(done.returncode, done.stderr.decode(), mistake.where)


GENERATOR = Path(__file__).parent.parent / "benchmarks" / "bad_recipes.py"


@pytest.mark.slow
def test_packaged_recipes_that_are_altered_at_random_are_refused_or_valid() -> None:
    """A sample of the 300 that the benchmark tries, in a process whose memory it limits."""
    done = subprocess.run(
        [sys.executable, str(GENERATOR), "--count", "15", "--seed", "2", "--limit", "120"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = re.search(r"15 recipes: (\d+) refused", done.stdout)
    assert result is not None and int(result[1]) >= 10
