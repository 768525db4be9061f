"""`toolkit evaluate`: a stranger's metric, real examples, and scores that are kept with their protocol."""

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor

from toolkit.cli import main
from toolkit.sources.digits import Digits

PLUGIN = '''
import toolkit

class Brightness(toolkit.Metric):
    """Mean of the real examples, and the sampler's network calls.

    Args:
        images: how many.
    """
    def __init__(self, images: int = 100):
        self.images = images

    def measure(self, subject: toolkit.Subject) -> toolkit.Score:
        seen = []
        for batch in subject.real(self.images, batch_size=32):
            seen += batch.flatten(1).mean(1).tolist()
            subject.progress(len(seen), self.images)
        return toolkit.Score({"mean": sum(seen) / len(seen), "calls": subject.pipeline.calls}, {"each": seen})

class Shades(toolkit.Metric):
    """Mean level of both sides."""
    def measure(self, subject: toolkit.Subject) -> toolkit.Score:
        generated, real = (images.double().mean().item() for images in subject.samples())
        return toolkit.Score({"generated": generated, "real": real})

@toolkit.hookimpl
def toolkit_components(registry):
    registry.add(toolkit.Metric, "brightness", Brightness)
    registry.add(toolkit.Metric, "shades", Shades)
'''


@pytest.fixture(autouse=True)
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A plugin with a metric, as pip would install it."""
    metadata = tmp_path / "site" / "toolkit_bright-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata.parent / "toolkit_bright.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit-bright\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[toolkit]\nbright = toolkit_bright\n")
    monkeypatch.syspath_prepend(metadata.parent)
    yield
    sys.modules.pop("toolkit_bright", None)


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs / "ddpm", tmp_path / "run")
    return tmp_path / "run"


def save_digits(folder: Path, images: Tensor) -> None:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{number:03}.png")


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def refusal(*arguments: object) -> str:
    done = evaluate(*arguments)
    assert done.exit_code == 2, done.output
    return done.stderr.removeprefix("error: ").rstrip()


def scores(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_a_metric_sees_the_runs_held_out_examples_as_the_model_does(run: Path) -> None:
    assert evaluate(run, "--metrics", "brightness", "--set", "metrics.brightness.images=50").exit_code == 0
    (score,) = scores(run / "scores")
    real = Digits(split="test").images[:50].double() / 127.5 - 1
    assert score["values"]["mean"] == pytest.approx(real.mean().item(), rel=1e-6)
    assert score["values"]["calls"] == 20 and len(score["curves"]["each"]) == 50


def test_a_score_is_kept_with_its_protocol_and_another_protocol_replaces_none(run: Path) -> None:
    for images in (50, 60, 50):
        evaluate(run, "--metrics", "brightness", "--set", f"metrics.brightness.images={images}")
    evaluate(run, "--metrics", "brightness", "--split", "train", "--set", "metrics.brightness.images=50")
    protocols = [score["protocol"] for score in scores(run / "scores")]
    asked = sorted((p["metric"]["images"], p["real"]["split"]) for p in protocols)
    assert asked == [(50, "held_out"), (50, "train"), (60, "held_out")]
    assert all(p["real"]["data"]["type"] == "digits" for p in protocols)
    made = [score["sampling"] for score in scores(run / "scores")]
    sampled = {(one["sampler"]["type"], one["weights"]) for one in made}
    assert sampled == {("ancestral", "ema")}


def test_a_pipeline_that_left_its_run_needs_data_and_a_folder_for_scores(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run / "pipeline", tmp_path / "elsewhere" / "model")
    needed, _, command = refusal(moved, "--metrics", "brightness").rpartition(": ")
    assert "needs --data, a folder of real images or a recipe that names them, and --out, a folder" in needed
    assert "not in a run folder, and needs --out" in refusal(moved, *BRIGHTNESS, "--data", "a/b")
    assert "runs/tpyo: is not here; a model on the Hub needs --data" in refusal("runs/tpyo", *BRIGHTNESS)
    assert evaluate(*shlex.split(command.removeprefix("toolkit evaluate "))).exit_code == 0
    assert len(scores(tmp_path / "scores")) == 1


def test_a_folder_of_images_is_scored_by_the_command_that_its_refusal_shows(tmp_path: Path) -> None:
    save_digits(tmp_path / "my images", Digits(split="train").images[:30])
    needed, _, command = refusal("my images", "--metrics", "shades").rpartition(": ")
    assert "my images: is a folder of images, and needs --data" in needed
    assert evaluate(*shlex.split(command.removeprefix("toolkit evaluate "))).exit_code == 0
    (score,) = scores(tmp_path / "scores")
    assert score["values"]["generated"] == pytest.approx(Digits(split="train").images[:30].double().mean())
    assert score["values"]["real"] == pytest.approx(Digits(split="test").images.double().mean())


def test_two_folders_of_images_are_compared(tmp_path: Path) -> None:
    digits = Digits().images
    for name, few in (("ours", digits[:20]), ("real", digits[20:60])):
        save_digits(tmp_path / name, few)
    stated = ("--metrics", "shades", "--out", "scores", "--split", "train")
    assert evaluate("ours", *stated, "--data", "./real").exit_code == 0
    (score,) = scores(tmp_path / "scores")
    assert score["values"]["real"] == pytest.approx(digits[20:60].double().mean())
    assert score["protocol"]["real"]["data"]["path"] == str(tmp_path / "real")
    wrong = refusal("ours", *stated, "--data", "./real", "--set", "data.size=16")
    assert "has examples of (1, 16, 16), but those to score are (1, 8, 8)" in wrong
    (tmp_path / "empty").mkdir()
    assert "--data ./empty: [data] path: " in refusal("ours", *stated, "--data", "./empty")


BRIGHTNESS = ("--metrics", "brightness")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--metrics", "brightnes"),
            "--metrics brightnes: [metrics.brightnes] type 'brightnes' is not installed",
        ),
        (("--metrics", "brightnes"), "Did you mean 'brightness'?"),
        ((*BRIGHTNESS, "--set", "metrics.brightness.image=5"), "has no option 'image'"),
        ((*BRIGHTNESS, "--set", "run.steps=5"), "there is no section 'run'"),
        (
            (*BRIGHTNESS, "--set", "data.size=16"),
            "has examples of (1, 16, 16), but those to score are (1, 8, 8)",
        ),
        (
            (*BRIGHTNESS, "--set", "data.split=all", "--split", "held_out"),
            "keeps no examples out of training",
        ),
        (("--metrics", " , "), "names no metric"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_computed(
    run: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in refusal(run, *arguments)
    assert not (run / "scores").exists()
