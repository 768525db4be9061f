"""What an evaluation makes is made once: by several processes, after a stop, for more images."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from toolkit.cli import main
from toolkit.runs.layout import step_of
from toolkit.runs.read import ScoreFile
from toolkit.sources.digits import Digits

PLUGIN = Path(__file__).with_name("evaluation_plugin.py")


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """evaluation_plugin.py as pip would install it, and a cache and a list of its own."""
    metadata = tmp_path / "site" / "toolkit_written-0.1.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(PLUGIN, metadata.parent / "toolkit_written.py")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit-written\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[toolkit]\nwritten = toolkit_written\n")
    monkeypatch.syspath_prepend(metadata.parent)
    monkeypatch.setenv("WRITTEN_DOWN", str(tmp_path / "written"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "written").touch()
    yield metadata.parent
    sys.modules.pop("toolkit_written", None)


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs / "ddpm", tmp_path / "run")
    return tmp_path / "run"


FLAGS = ("--sampler", "written", "--features", "corners", "--split", "train", "--device", "cpu")


def evaluate(source: object, *more: object, metrics: str = "distance") -> Result:
    stated = ["evaluate", str(source), "--metrics", metrics, *FLAGS, *map(str, more)]
    return CliRunner().invoke(main, stated, catch_exceptions=False)


def scored(source: Path, *more: object, metrics: str = "distance") -> Result:
    result = evaluate(source, *more, metrics=metrics)
    assert result.exit_code == 0, result.output
    return result


def made() -> Counter[str]:
    """How many samples were drawn and how many images looked at since the last time."""
    path, counted = Path(os.environ["WRITTEN_DOWN"]), Counter[str]()
    for line in path.read_text().splitlines():
        what, n, _ = line.split()
        counted[what] += int(n)
    path.write_text("")
    return counted


def torchrun(site: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    # After -- torchrun takes no flag of ours for one of its own, as it would take --num for --numa-binding.
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "--",
        "toolkit",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)}
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_two_processes_share_samples_and_features_and_find_the_score_of_one(run: Path, site: Path) -> None:
    stated = ("evaluate", run, "--metrics", "distance,alone", *FLAGS, "--num", "1100")
    two = torchrun(site, *stated, "--out", "two")
    assert two.returncode == 0, two.stderr[-3000:]
    lines = Path(os.environ["WRITTEN_DOWN"]).read_text().splitlines()
    workers = {what: {line.split()[2] for line in lines if line.startswith(what)} for what in made()}
    assert len(workers["samples"]) == len(workers["features"]) == 2
    Path(os.environ["WRITTEN_DOWN"]).write_text("\n".join(lines))
    real = len(Digits())
    assert made() == {"samples": 1100, "features": 1100 + real, "alone": 2}  # none of it twice
    assert two.stderr.count("written to") == 2  # one for each metric
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    scored(run, "--num", 1100, "--out", "one", metrics="distance,alone")
    for path in Path("one").glob("*.json"):
        ours, theirs = (json.loads((Path(folder) / path.name).read_text()) for folder in ("one", "two"))
        assert {**ours, "time": 0} == {**theirs, "time": 0}
    assert len(list(Path("one").glob("*.json"))) == 2


@pytest.mark.slow
def test_what_one_process_refuses_stops_all(run: Path, site: Path) -> None:
    done = torchrun(site, "evaluate", run, "--metrics", "breaks", *FLAGS, "--num", "100")
    assert done.returncode != 0 and "error: this process has had enough" in done.stderr
    assert list((run / "scores").glob("*.json")) == []


def test_an_evaluation_that_was_stopped_goes_on_with_the_samples_it_has(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIVES_UP_AFTER", "650")
    stopped = evaluate(run, "--num", 800)
    assert stopped.exit_code == 2 and "the machine is switched off" in stopped.stderr
    assert made()["samples"] == 500 + 128 + 64  # the last batch is what gave up
    monkeypatch.delenv("GIVES_UP_AFTER")
    scored(run, "--num", 800)
    assert made()["samples"] == 800 - 628
    scored(run, "--num", 800, "--out", "unbroken")
    made()
    (resumed,), (unbroken,) = ([*folder.glob("*.json")] for folder in (run / "scores", Path("unbroken")))
    assert json.loads(resumed.read_text())["values"] == json.loads(unbroken.read_text())["values"]


def test_more_images_are_added_to_those_that_are_there(run: Path) -> None:
    for num, new in ((100, 100), (40, 0), (700, 600), (700, 0)):
        scored(run, "--num", num)
        assert made()["samples"] == new


def test_images_that_were_looked_at_are_not_looked_at_again(run: Path) -> None:
    scored(run, "--num", 600)
    assert made()["features"] == 600 + len(Digits())
    scored(run, "--num", 600, "--set", "metrics.distance.power=2.0")
    assert made()["features"] == 0
    scored(run, "--num", 600, "--set", "features.weights=1")
    assert made()["features"] == 600 + len(Digits())


@pytest.mark.parametrize("other", ["seed", "sampler", "weights", "options"])
def test_samples_of_another_seed_sampler_or_model_are_none_of_this_one(
    run: Path, runs: Path, other: str, tmp_path: Path
) -> None:
    scored(run, "--num", 10, "--out", "scores")
    made()
    source, more = run, ["--num", "10", "--out", "scores"]
    if other == "seed":
        more += ["--set", "images.seed=1"]
    if other == "sampler":
        more += ["--sampler", "ddim"]
    if other == "weights":
        retrained = CliRunner().invoke(
            main, ["train", str(runs / "ddpm.toml"), "--set=run.steps=1", "--set=run.out=other"]
        )
        assert retrained.exit_code == 0, retrained.output
        source = tmp_path / "other"
    if other == "options":
        pipeline = json.loads((run / "pipeline" / "pipeline.json").read_text())
        pipeline["sampler"] = {"type": "written", "scale": 0.5}
        (run / "pipeline" / "pipeline.json").write_text(json.dumps(pipeline))
    scored(source, *more)
    assert made()["samples"] == (0 if other == "sampler" else 10)  # ddim writes nothing down
    folders = list(Path("scores").glob("samples-*"))
    assert len(folders) == 2


def digits(folder: Path, n: int, size: int = 8, first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(n):
        picture = Image.fromarray(Digits().images[first + i, 0].numpy())
        picture.resize((size, size)).save(folder / f"{i:03d}.png")
    return folder


@pytest.mark.slow
def test_a_folder_of_pictures_is_scored_by_how_many_it_has_and_which(tmp_path: Path) -> None:
    """Asked for 10,000, it is 30; two folders leave two scores."""
    (tmp_path / "digits.toml").write_text('[data]\ntype = "digits"\n')
    for name, first in (("a", 0), ("b", 100)):
        flags = ("--metrics", "distance", "--features", "corners", "--device", "cpu")
        stated = [str(digits(tmp_path / name, 30, first=first)), "--data", "digits.toml", "--out", "scores"]
        result = CliRunner().invoke(main, ["evaluate", *stated, *flags], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    found = [json.loads(path.read_text()) for path in sorted(Path("scores").glob("*.json"))]
    assert [score["protocol"]["generated"]["num"] for score in found] == [30, 30]
    assert found[0]["protocol"] == found[1]["protocol"] and found[0]["model"] != found[1]["model"]
    assert found[0]["sampling"] is None


Change = Callable[[Path], list[str]]
MEASURED: dict[str, list[str]] = {
    "extractor": ["--set", "features.weights=1"],
    "number of images": ["--num", "11"],
    "number of real images": ["--set", "images.real=99"],
    "split": ["--split", "held_out"],
    "options of the data": ["--set", "data.split='all'"],
    "option of the metric": ["--set", "metrics.distance.power=2.0"],
}
SAMPLED: dict[str, list[str]] = {
    "seed": ["--set", "images.seed=1"],
    "sampler": ["--sampler", "ancestral"],
    "steps": ["--sampler", "ancestral", "--steps", "5"],
    "spacing": ["--sampler", "ancestral", "--steps", "5", "--spacing", "trailing"],
}


def kept_score(folder: str) -> ScoreFile:
    (file,) = Path(folder).glob("*.json")
    return ScoreFile.model_validate_json(file.read_text())


def test_no_two_ways_to_measure_have_one_fingerprint(run: Path) -> None:
    """Also other releases of the toolkit."""
    prints: dict[str, str] = {}
    for name, more in {"": [], **MEASURED}.items():
        shown = scored(run, "--num", "10", "--out", f"scores {name}", *more).output
        fingerprint = re.search(r"protocol ([0-9a-f]{8})", shown)
        assert fingerprint is not None, shown
        prints[name] = fingerprint[1]
    kept = kept_score("scores ")

    def again(**changed: object) -> str:
        protocol = {**kept.protocol, **changed}
        return ScoreFile.measured("distance", {}, {}, protocol, kept.sampling, kept.model).fingerprint

    assert again() == prints[""]
    prints["release"] = again(toolkit="0.0.9")
    assert len(set(prints.values())) == len(prints) == len(MEASURED) + 2


def test_how_samples_were_made_is_kept_beside_the_protocol_and_changes_no_fingerprint(run: Path) -> None:
    for more in ([], *SAMPLED.values()):
        scored(run, "--num", "10", "--out", "scores", *more)
    found = [ScoreFile.model_validate_json(path.read_text()) for path in Path("scores").glob("*.json")]
    assert len(found) == len(SAMPLED) + 1  # none has replaced another
    assert len({score.fingerprint for score in found}) == 1
    assert all(score.sampling is not None and score.sampling["weights"] == "ema" for score in found)


def test_a_score_is_shown_with_its_deviation_its_protocol_and_what_to_know_of_it(run: Path) -> None:
    shown = scored(run, "--num", 10).output
    assert re.search(r"distance +\d+\.\d+ ± 0\.25   protocol [0-9a-f]{8}\n", shown)
    assert "note it is only a distance" in shown and "distance_std" not in shown


def test_a_folder_of_pictures_cannot_be_sampled_otherwise(tmp_path: Path) -> None:
    refused = evaluate(digits(tmp_path / "a", 3), "--data", "digits.toml", "--out", "scores")
    assert refused.exit_code == 2 and "which --sampler, --steps and --spacing cannot change" in refused.stderr


def test_what_a_metric_does_not_ask_for_makes_no_other_protocol(run: Path) -> None:
    """`alone` compares nothing: the number of images, the seed and the extractor are nothing to it."""
    sets = ("images.seed=1", "images.real=9", "features.weights=1")
    changed = ("--num", "11", *(f"--set={one}" for one in sets))
    for more in ((), changed):
        scored(run, *more, metrics="alone")
    (file,) = (run / "scores").glob("*.json")
    protocol = json.loads(file.read_text())["protocol"]
    assert protocol["generated"] == {} and "num" not in protocol["real"] and protocol["extractor"] is None


def test_samples_and_scores_of_another_release_of_a_plugin_are_others(run: Path, site: Path) -> None:
    scored(run, "--num", 10)
    made()
    metadata = site / "toolkit_written-0.1.dist-info"
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit-written\nVersion: 0.2\n")
    scored(run, "--num", 10)
    assert made()["samples"] == 10
    found = [json.loads(path.read_text())["protocol"] for path in (run / "scores").glob("*.json")]
    assert sorted(p["plugins"]["written"] for p in found) == ["toolkit-written 0.1", "toolkit-written 0.2"]


def test_features_that_cannot_be_kept_are_used_all_the_same(run: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="features are not kept"):
        scored(run, "--num", 10)


def test_a_checkpoint_is_scored_apart_from_its_run(run: Path) -> None:
    (checkpoint,) = (run / "checkpoints").iterdir()
    step = step_of(checkpoint)
    scored(run, "--checkpoint", step, "--num", 2)
    assert not list((run / "scores").glob("*.json")), "it is none of the run's"
    assert list((run / "scores" / checkpoint.name).glob("distance-*.json"))
    refused = evaluate(run, "--checkpoint", step + 1, "--num", 2)
    assert refused.exit_code == 2 and f"has no checkpoint of step {step + 1}" in refused.output
    scored(run, "--checkpoint", step, "--num", 2, "--out", "elsewhere")
    assert list(Path("elsewhere").glob("distance-*.json"))
    cleaned = CliRunner().invoke(main, ["clean", str(run)])
    assert cleaned.exit_code == 0 and not list((run / "scores").rglob("samples-*"))
