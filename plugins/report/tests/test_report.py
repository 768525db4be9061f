"""`toolkit report`: one page that needs nothing but itself, and its pictures as files."""

import dataclasses
import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.cbook
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageStat
from small_runs import finished, install, refused

from toolkit.cli import main
from toolkit.runs.read import Cost, RunSummary, ScoreFile, read_run
from toolkit_report.facts import by_objective, number, time_unit, train_seconds, train_speed
from toolkit_report.figures import Picture, literal, styles, write
from toolkit_report.forms import Form, form_of, slices
from toolkit_report.plots import series, spans_decades

pytestmark = pytest.mark.slow  # runs, by the dozen

VOID = {"meta", "img", "br", "hr", "link", "input", "source", "wbr"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
POINTS = """
[run]
batch_size = 8
steps = 2
[data]
type = "gaussians25"
length = 100
[schedule]
type = "linear"
num_train_timesteps = 3
beta_start = 1e-3
beta_end = 0.3
[objective]
type = "denoising"
[networks.denoiser]
type = "ddpm_mlp"
width = 8
layers = 1
[optimizers.denoiser]
type = "adam"
lr = 1e-3
[sampler]
type = "ancestral"
[samples]
num = 0
"""


class Page(HTMLParser):
    """A page's elements, which must be closed in order, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def report(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["report", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def kinds(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of several kinds: pictures, a GAN hybrid, points, and one that samples nothing."""
    folder = tmp_path_factory.mktemp("kinds")
    for name in ("ddpm", "ddgan"):
        shutil.copytree(runs / name, folder / name)
    (folder / "points.toml").write_text(POINTS)
    trained = CliRunner().invoke(
        main, ["train", str(folder / "points.toml"), "--set", f"run.out={folder / 'points'}"]
    )
    assert trained.exit_code == 0, trained.output
    shutil.copytree(runs / "ddpm", folder / "other")
    shutil.rmtree(folder / "other" / "pipeline")
    for name, value, split in (("ddpm", 12.5, "held_out"), ("ddgan", 4.25, "held_out")):
        stated = read_run(folder / name).pipeline
        assert stated is not None
        model = {"identity": "a", "steps": stated["steps"], "weights": stated["weights"]}
        protocol, sampling = {"real": {"split": split}}, {"sampler": stated["sampler"]}
        ScoreFile.measured("fid", {"fid_x": value}, {"fid_x": "lower"}, protocol, sampling, model).write(
            folder / name / "scores"
        )
        drawn = Image.linear_gradient("L") if name == "ddpm" else None
        ScoreFile.measured(
            "memory", {"copied": 0.25}, {}, protocol, sampling, model, None, ["rows are samples"], drawn
        ).write(folder / name / "scores")
        Cost(
            parameters={"denoiser": 10**6}, samples_per_second=value, batch_size=8, network_calls=7,
            flops_per_image=10**9, peak_memory_bytes=10**8, peak_memory="allocated on the device",
            train_images_per_second=9.0, train_seconds=60.0, device="a card", threads=1,
        ).write(folder / name)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def made(kinds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A report of all of them, and the folder of its pictures."""
    out = tmp_path_factory.mktemp("report")
    folders = [kinds / name for name in ("ddpm", "ddgan", "points", "other")]
    done = report(*folders, "--out", out / "r.html", "--png", out / "png", "--samples", "4")
    assert done.exit_code == 0, done.output
    yield out / "r.html", out / "png"


def test_a_page_has_every_part_and_is_closed_in_order(made: tuple[Path, Path]) -> None:
    text = made[0].read_text()
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert re.findall(r"<h2>([^<]*)", text) == [
        "Summary", "Recipe differences", "Losses", "Samples", "From data to noise", "From noise to samples",
        "Quality against sampling time", "Quality against cost", "Pictures of scores",
    ]  # fmt: skip
    for said in ("12.5", "4.25", "ddpm: 20 network calls", "ddgan: 4 network calls", "points: 3 steps",
                 "other: has no pipeline", "schedule.num_train_timesteps", "lower is better"):  # fmt: skip
        assert said in page.text, said


def test_a_page_refers_to_nothing_outside_itself(made: tuple[Path, Path]) -> None:
    text = made[0].read_text()
    own = re.sub(r'"data:image/png;base64,[^"]*"', "", text)
    assert re.search(r"https?:|//[a-z]|url\(|@import|<link", own) is None
    for _, attributes in Page(text).elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))


def test_every_picture_says_what_it_shows_and_is_a_file_too(made: tuple[Path, Path]) -> None:
    page, folder = made
    shown = [attributes for tag, attributes in Page(page.read_text()).elements if tag == "img"]
    assert all(attributes["alt"] for attributes in shown)
    assert len(list(folder.iterdir())) == 1 + len(shown)
    assert {path.stem for path in folder.iterdir()} == {
        "side-by-side", "loss-denoiser-of-denoising-data.type-digits",
        "loss-denoiser-of-denoising-data.type-gaussians25", "loss-denoiser-of-ddgan", "loss-discriminator",
        "samples-ddpm", "samples-ddgan", "samples-points",
        "noising-ddpm", "noising-ddgan", "noising-points", "denoising-ddpm", "denoising-ddgan",
        "denoising-points", "quality-time-fid_x", "quality-cost-fid_x",
        "quality-cost-held_out-denoiser-loss", "memory-ddpm",
    }  # fmt: skip
    for path in folder.iterdir():
        png = path.read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert png[:4] == b"\x89PNG" and min(width, height) > 100 and len(png) > 500, path


def test_the_samples_are_those_of_the_command_line_for_the_same_seeds(
    made: tuple[Path, Path], kinds: Path, tmp_path: Path
) -> None:
    sampled = ["sample", str(kinds / "ddpm"), "--num", "4", "--out", str(tmp_path / "s.png")]
    assert CliRunner().invoke(main, sampled).exit_code == 0
    with Image.open(tmp_path / "s.png") as own, Image.open(made[1] / "samples-ddpm.png") as theirs:
        assert own.size == theirs.size and own.tobytes() == theirs.tobytes()


def test_the_picture_of_a_score_is_shown_as_its_metric_drew_it_with_what_the_metric_says(
    made: tuple[Path, Path], kinds: Path, tmp_path: Path
) -> None:
    with Image.open(made[1] / "memory-ddpm.png") as shown:
        assert shown.tobytes() == Image.linear_gradient("L").tobytes()
    assert "ddpm: copied 0.25, ancestral, rows are samples" in Page(made[0].read_text()).text
    run = shutil.copytree(kinds / "ddpm", tmp_path / "ddpm")
    (picture,) = (run / "scores").glob("*.png")
    picture.write_bytes(b"no picture")
    assert report(run, "--out", tmp_path / "r.html", "--samples", "0").exit_code == 0
    assert f"ddpm: {picture.name} cannot be read" in Page((tmp_path / "r.html").read_text()).text


def test_scores_by_other_protocols_are_shown_marked_with_what_differs(kinds: Path, tmp_path: Path) -> None:
    folders = [shutil.copytree(kinds / name, tmp_path / "runs" / name) for name in ("ddpm", "ddgan")]
    (file,) = (folders[1] / "scores").glob("fid-*")
    stated = json.loads(file.read_text())
    stated |= {"fingerprint": "other", "protocol": {**stated["protocol"], "real": {"split": "train"}}}
    file.write_text(json.dumps(stated))
    assert report(*folders, "--out", tmp_path / "r.html", "--samples", "0").exit_code == 0
    page = (tmp_path / "r.html").read_text()
    assert "12.5 (a)" in page and "4.25 (b)" in page and "number best" not in page
    assert "real.split is held_out in (a), train in (b)" in page


def test_without_samples_scores_and_costs_the_page_says_what_is_left_out(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "ddpm", tmp_path / "bare")
    (run / "metrics.jsonl").write_text("{ damaged")
    assert report(run, "--out", tmp_path / "r.html", "--samples", "0").exit_code == 0
    text = (tmp_path / "r.html").read_text()
    assert re.findall(r"<h2>([^<]*)", text) == ["Summary", "Not shown"]  # one run: no differences
    for sentence in ("No run has recorded a loss.", "No run has a score that ranks"):
        assert sentence in Page(text).text


def test_data_that_is_elsewhere_leaves_out_its_strip_and_says_so(kinds: Path, tmp_path: Path) -> None:
    run = shutil.copytree(kinds / "ddpm", tmp_path / "moved")
    recipe = (run / "recipe.toml").read_text()
    head, tail = recipe.split("[data]")
    rest = tail[tail.index("\n[") :]
    (run / "recipe.toml").write_text(f'{head}[data]\ntype = "folder"\npath = "/nowhere/at/all"\n{rest}')
    assert report(run, "--out", tmp_path / "r.html", "--samples", "2").exit_code == 0
    assert "moved: its data cannot be read here: " in (tmp_path / "r.html").read_text()


def test_a_run_that_fails_costs_its_own_part_and_says_so(kinds: Path, tmp_path: Path) -> None:
    """Weights that are damaged and a recipe that is none, beside a run that is whole."""
    whole, damaged, unreadable = (
        shutil.copytree(kinds / "ddpm", tmp_path / name) for name in ("whole", "damaged", "unreadable")
    )
    weights = max((damaged / "pipeline").rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:100])
    (unreadable / "recipe.toml").write_text("[run")
    done = report(whole, damaged, unreadable, "--out", tmp_path / "r.html", "--samples", "1")
    assert done.exit_code == 0, done.output
    text = Page((tmp_path / "r.html").read_text()).text
    for said in ("damaged: cannot be sampled here: ", "unreadable is left out: "):
        assert said in text and said in done.output.replace("\n", " ")
    assert "whole: 20 network calls" in text and "damaged: 20 network calls" not in text
    assert "no run here" in refused(report(whole, tmp_path / "typo", "--out", tmp_path / "r.html"))


def test_losses_are_in_one_picture_where_objectives_differ_in_numbers_only() -> None:
    def run(target: str, dropout: float, path: str = "a") -> RunSummary:
        loss = {"type": "squared_error", "target": target}
        objective = {"type": "denoising", "label_dropout": dropout, "loss": loss}
        recipe = {"objective": objective, "data": {"type": "folder", "path": path}}
        return RunSummary(Path("x"), "finished", 1, 0.0, recipe, (), ())

    alike = [run("noise", 0.0), run("noise", 0.1)]
    assert by_objective(alike, [0, 1]) == {"denoising": [0, 1]}
    runs = [*alike, run("flow", 0.1), run("noise", 0.0, "b")]
    assert by_objective(runs, [0, 1, 2, 3]) == {
        "denoising, loss.target noise, data.path a": [0, 1],
        "denoising, loss.target flow, data.path a": [2],
        "denoising, loss.target noise, data.path b": [3],
    }


SHAPES = """
import torch
from toolkit import DataSource, hookimpl

class Waves(DataSource):
    \"\"\"Noise of a shape.

    Args:
        shape: of an example.
    \"\"\"
    num_classes = None

    def __init__(self, shape: list[int]) -> None:
        self.image_shape = tuple(shape)

    def __len__(self) -> int:
        return 16

    def read(self, indices: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.randn(len(indices), *self.image_shape), None

@hookimpl
def toolkit_components(registry):
    registry.add(DataSource, "waves", Waves)
"""


def test_signals_volumes_and_numbers_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "shapes", SHAPES)
    monkeypatch.chdir(tmp_path)
    Path("waves.toml").write_text(POINTS.replace('"gaussians25"\nlength = 100', '"waves"\nshape = [1]'))
    shapes = {"numbers": "[1]", "signals": "[2, 16]", "volumes": "[1, 7, 4, 4]", "fields": "[3, 4, 4]"}
    for name, shape in shapes.items():
        assert finished("waves.toml", f"data.shape={shape}", f"run.out={name}").exit_code == 0
    done = report(*shapes, "--samples", "3", "--png", "png")
    assert done.exit_code == 0 and "cannot" not in done.output, done.output
    for name in shapes:
        assert {f"{part}-{name}.png" for part in ("samples", "noising", "denoising")} <= {
            path.name for path in Path("png").iterdir()
        }
    with Image.open("png/samples-volumes.png") as grid:  # five slices a row, of which there are three
        assert grid.width > grid.height and grid.mode == "L"


def test_slices_are_evenly_spread_and_of_one_scale() -> None:
    volume = torch.arange(9.0)[None, None, :, None, None].expand(1, 1, 9, 2, 2)
    assert form_of((1, 9, 2, 2), True) is Form.SLICES
    assert slices(volume, volume)[0, :, 0, 0, 0].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_a_page_follows_the_reader_into_the_dark(
    browser: str, made: tuple[Path, Path], tmp_path: Path
) -> None:
    """The mean of all pixels in the first screen, in a browser that prefers dark and in one that does not."""
    means = []
    for preference in ("0", "1"):  # dark, light
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        target = f"--screenshot={tmp_path / 'page.png'}"
        scheme = f"--blink-settings=preferredColorScheme={preference}"
        subprocess.run(
            [browser, *flags, scheme, "--window-size=1200,800", target, made[0].as_uri()],
            capture_output=True, timeout=120,
        )  # fmt: skip
        with Image.open(tmp_path / "page.png") as drawn:
            means.append(ImageStat.Stat(drawn.convert("L")).mean[0])
    assert means[0] < 60 and means[1] > 200


def test_names_are_text_and_no_markup(kinds: Path, tmp_path: Path) -> None:
    run = shutil.copytree(kinds / "ddpm", tmp_path / "<b>&$x_")
    assert report(run, "--out", tmp_path / "r.html", "--png", "png", "--samples", "1").exit_code == 0
    assert "<b>" not in (tmp_path / "r.html").read_text()
    assert Path("png/samples-b-x_.png").exists()


def test_a_report_replaces_an_earlier_one_and_nothing_else(kinds: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert report(kinds / "other", "--out", tmp_path / "r.html", "--samples", "0").exit_code == 0
    mine = "mine, about a diffusion-toolkit report"
    (tmp_path / "mine.html").write_text(mine)
    said = refused(report(kinds / "other", "--out", tmp_path / "mine.html", "--samples", "0"))
    assert "is already there, and is not a report" in said and (tmp_path / "mine.html").read_text() == mine
    assert "cannot write" in refused(report(kinds / "other", "--out", "x" * 300, "--samples", "0"))


def test_pictures_replace_those_of_an_earlier_report_and_nothing_else(kinds: Path, tmp_path: Path) -> None:
    given = (kinds / "other", "--out", tmp_path / "r.html", "--samples", "0", "--png", tmp_path / "png")
    for _ in range(2):
        assert report(*given).exit_code == 0
    mine = tmp_path / "png" / "loss-denoiser.png"
    mine.write_bytes(b"mine")
    assert f"--png {mine}: is already there" in refused(report(*given)) and mine.read_bytes() == b"mine"


def test_pictures_of_equal_names_are_numbered(tmp_path: Path) -> None:
    named = [("samples-a", b"1"), ("samples-A", b"2"), ("samples-a-2", b"3")]
    write([Picture(name, png, 1, "") for name, png in named], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "samples-a.png": b"1", "samples-A-2.png": b"2", "samples-a-2-2.png": b"3",
    }  # fmt: skip


def test_what_a_run_recorded_counts_more_than_an_old_cost_card(kinds: Path) -> None:
    resumed = dataclasses.replace(
        read_run(kinds / "ddpm"), records=({"step": 9, "seconds": 600.0, "images_per_second": 50.0},)
    )
    assert (train_seconds(resumed), train_speed(resumed)) == (600.0, 50.0)
    unrecorded = dataclasses.replace(resumed, records=())
    assert (train_seconds(unrecorded), train_speed(unrecorded)) == (60.0, 9.0)


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("toolkit_report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    said = refused(report(runs / "ddpm"))
    assert f"{package} is not installed: pip install 'diffusion-toolkit[report]'" in said


def test_time_is_counted_on_where_a_run_was_resumed(kinds: Path, tmp_path: Path) -> None:
    run = shutil.copytree(kinds / "ddpm", tmp_path / "run")
    records = [{"step": i, "seconds": s, "a/loss": v} for i, s, v in
               ((1, 10.0, 4.0), (2, 3.0, float("nan")), (3, 5.0, 2.0))]  # fmt: skip
    lines = [*map(json.dumps, records), json.dumps({"step": 3, "held_out/a/loss": 1.0})]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    summary = read_run(run)
    assert series(summary, "a/loss", "seconds") == [(10.0, 4.0), (15.0, 2.0)]  # none where it is not finite
    assert series(summary, "held_out/a/loss", "seconds") == [(15.0, 1.0)]
    assert series(summary, "a/loss", "step") == [(1.0, 4.0), (3.0, 2.0)]


def test_runs_are_told_apart_by_colour_and_beyond_that_by_dashes() -> None:
    looks = styles([str(i) for i in range(20)])
    assert len({(look.colour, look.dash) for look in looks}) == 20
    assert len({look.colour for look in looks[:7]}) == 7


def test_axes_are_logarithmic_and_in_the_unit_that_fits() -> None:
    assert spans_decades([0.01, 1.0]) and not spans_decades([0.1, 1.0]) and not spans_decades([0.0, 1.0])
    assert [time_unit([s])[0] for s in (59.0, 200.0, 20_000.0)] == ["s", "min", "h"]
    assert number({"a": True, "b": float("inf"), "c": 2}, "c") == 2.0
    assert all(number({"a": True, "b": float("inf")}, key) is None for key in "abc")


@pytest.fixture
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no browser to look at the page with")
    return found


def rows_in_browser(browser: str, page: Path, clicks: int, tmp_path: Path) -> list[str]:
    """The runs of the summary from top to bottom, after so many clicks on the heading of the score."""
    headings = '[...document.querySelectorAll("#summary thead button")]'
    click = f'{headings}.find(one => one.textContent.includes("fid_x")).click();'
    clicked = tmp_path / "clicked.html"
    clicked.write_text(page.read_text().replace("</body>", f"<script>{click * clicks}</script></body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    dumped = subprocess.run(
        [browser, *flags, "--dump-dom", clicked.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    summary = dumped.split('id="summary"')[1].split("</table>")[0]
    return re.findall(r'<th scope="row"><span[^>]*></span>([^<]*)', summary)


def test_a_click_on_a_heading_sorts_by_it_and_blanks_stay_last(
    browser: str, made: tuple[Path, Path], tmp_path: Path
) -> None:
    as_listed, up, down = (rows_in_browser(browser, made[0], clicks, tmp_path) for clicks in (0, 1, 2))
    assert as_listed == ["ddpm", "ddgan", "points", "other"]
    assert up == ["ddgan", "ddpm", "points", "other"]  # 4.25, 12.5, and none
    assert down == ["ddpm", "ddgan", "points", "other"]


def test_a_browser_draws_the_page(browser: str, made: tuple[Path, Path], tmp_path: Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    size = "--window-size=1200,3000"
    target = f"--screenshot={tmp_path / 'page.png'}"
    subprocess.run([browser, *flags, size, target, made[0].as_uri()], capture_output=True, timeout=120)
    with Image.open(tmp_path / "page.png") as drawn:
        colours = drawn.convert("RGB").getcolors(maxcolors=10**6)
    assert colours is not None and len(colours) > 500  # a page that failed is white


@pytest.mark.parametrize("name", ["$x^$", "$\\frac{$", "a\\$b", "100$", "$$"])
def test_names_are_text_and_no_mathematics(runs: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(runs / "ddpm", tmp_path / name)
    lines = (run / "metrics.jsonl").read_text().replace("denoiser/loss", json.dumps(f"{name}/loss")[1:-1])
    (run / "metrics.jsonl").write_text(lines)
    done = report(run, "--samples", "0", "--out", tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    assert literal(name).replace("\\$", "$") == name  # as matplotlib shows what is no mathematics
    assert not matplotlib.cbook.is_math_text(literal(name))
