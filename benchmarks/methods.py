"""Every method on scikit-learn's 8x8 digits, at about the same training time: quality against speed.

    python benchmarks/methods.py --out runs/methods [--methods ddpm ddgan ...]

Trains each method's recipe, samples it, and writes a table, a picture of quality against sampling time as
in figure 1 of Xiao et al. (2022), and a sheet of samples. Training and sampling are in processor time, one
thread. Quality is the Frechet distance, precision and recall between 1,437 samples and the 1,437 training
digits, by the features of a classifier of them, which is trained first. Results are kept in OUT/results,
and what is there is not computed again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from toolkit import Pipeline, load
from toolkit.evaluation.evaluate import Split, evaluate, read_protocol
from toolkit.registry import load as plugins

BATCH = 64
IMAGES = 1437  # the digits that are trained on


@dataclass(frozen=True)
class Method:
    """A recipe, how many steps of it take about as long as the others, and how it is sampled.

    Args:
        recipe: a packaged one.
        steps: of training.
        samplers: what is scored beside the recipe's own sampler, by name: options of [sampler].
        flags: for the recipe, beside its data and steps; OUT stands for the folder of all runs.
        after: the method whose run it starts from, whose training time is counted too.
    """

    recipe: str
    steps: int
    samplers: dict[str, dict[str, Any]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    after: str | None = None


EULER = {f"Euler, {n}": {"type": "euler", "num_inference_steps": n} for n in (1, 4)}
METHODS = {
    "ddpm": Method("quickstart", 1400, {"DDIM, 20": {"type": "ddim", "num_inference_steps": 20}}),
    "improved ddpm": Method("improved_ddpm_small", 1000),
    "importance": Method("importance_small", 2400),
    "iwdiff": Method("iwdiff_small", 1200),
    "mbconv": Method("mbconv_small", 700),
    "dit": Method("dit_digits", 1400),
    "flow": Method("flow_digits", 1000, EULER),
    "edm": Method("edm_digits", 1000),
    "consistency": Method("consistency_digits", 1000),
    "meanflow": Method("meanflow_digits", 1000),
    "dmd": Method(
        "dmd_digits", 150, after="ddpm",
        flags=tuple(f"networks.{role}.from_run=OUT/ddpm" for role in ("teacher", "student", "fake_score")),
    ),
    "tdpm": Method("tdpm_digits", 800),
    "ddgan": Method("ddgan_digits", 2000),
    "dcgan": Method("dcgan_mnist_small", 6000),
    "sngan": Method("sngan_mnist_small", 2500),
    "r3gan": Method("r3gan_mnist_small", 2500),
    "diffusion gan": Method("diffusion_gan_mnist_small", 1500),
    "vae": Method("vae_mnist_small", 1500),
}  # fmt: skip


def flags_of(method: Method, out: Path) -> list[str]:
    """Data and steps, with which the recipes' schedules end, and nothing written on the way."""
    quiet = ["checkpoints.every=1000000", "run.measure_every=1000000"]
    flags = [flag.replace("OUT", str(out)) for flag in method.flags]
    return ["data.type=digits", f"run.steps={method.steps}", *quiet, *flags]


def trained(name: str, out: Path) -> dict[str, float]:
    """Train a method, unless it is; its processor time, with that of the method it starts from."""
    method = METHODS[name]

    def compute() -> dict[str, float]:
        before = trained(method.after, out)["seconds"] if method.after else 0.0
        run = toolkit_train(method.recipe, [*flags_of(method, out), f"run.out={out / name}"])
        return {"steps": method.steps, "seconds": run + before}

    return kept(out / "results" / f"{name}.training.json", compute)


def toolkit_train(recipe: str, flags: list[str]) -> float:
    """Processor seconds of `toolkit train`, its start left in."""
    command = [sys.executable, "-m", "toolkit", "train", recipe, *(f"--set={flag}" for flag in flags)]
    child = subprocess.Popen([*command, "--resume", "auto"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{recipe}: training failed")
    return used.ru_utime + used.ru_stime


def measured(name: str, out: Path, classifier: Path) -> dict[str, dict[str, float]]:
    """The scores and speeds of a method, by sampler."""
    method = METHODS[name]

    def compute(options: dict[str, Any]) -> dict[str, float]:
        pipeline = load(out / name)
        pipeline = pipeline.with_sampler(**options) if options else pipeline
        rate = BATCH / min(seconds(pipeline) for _ in range(3))
        values = {"calls": float(pipeline.calls + pipeline.start.calls), "samples_per_second": rate}
        compared = {"data.type": "digits", "features.path": classifier, "images.num": IMAGES}
        return values | scores(pipeline, method.recipe, compared, out, "train")

    result = {}
    for sampler, options in {"": {}, **method.samplers}.items():
        title = f"{name}, {sampler}" if sampler else name
        path = out / "results" / f"{title.replace(', ', '-').replace(' ', '_')}.json"
        result[title] = kept(path, partial(compute, options))
    return result


def seconds(pipeline: Pipeline, n: int = BATCH) -> float:
    """Processor time of sampling once, in batches of 64."""
    start = time.process_time()
    list(pipeline.sample(n, batch_size=BATCH))
    return time.process_time() - start


def scores(
    pipeline: Pipeline, recipe: str, stated: Mapping[str, Any], out: Path, split: Split | None = None
) -> dict[str, float]:
    """Frechet distance, precision and recall of a classifier's features.

    Args:
        pipeline: what is scored.
        recipe: whose [data] its samples are compared with.
        stated: keys of the protocol: `images.num`, `images.real`, `features.path`, the data's.
        out: where samples are kept.
        split: of the data; None takes the held-out one.
    """
    flags = ["features.type=classifier", *(f"{key}={value}" for key, value in stated.items())]
    protocol = read_protocol(recipe, ["fid", "precision", "recall"], flags, plugins.load().registry)
    values: dict[str, float] = {}
    for scored in evaluate(pipeline, protocol, out, device=torch.device("cpu"), split=split):
        values |= {name.split("_")[0]: value for name, value in scored.values.items()}
    return values


def kept(path: Path, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a file says, or what is computed and then written to it."""
    if not path.exists():
        path.write_text(json.dumps(compute(), indent=1))
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)

    out = chosen.out.resolve()
    (out / "results").mkdir(parents=True, exist_ok=True)
    classifier = out / "classifier"
    if not (classifier / "networks").exists():
        flags = ["data.type=digits", "run.steps=400"]
        toolkit_train("classifier_mnist16", [*flags, f"run.out={classifier}"])

    rows: dict[str, dict[str, float]] = {}
    print(
        "| method | steps | training, s | network calls | samples/s | Frechet distance | precision | recall |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in chosen.methods:
        training = trained(name, out)
        for title, row in measured(name, out, classifier).items():
            rows[title] = row
            print(
                f"| {title} | {training['steps']:,} | {training['seconds']:.0f} | {row['calls']:.0f} "
                f"| {rounded(row['samples_per_second'])} | {row['fid']:.1f} | {row['precision']:.2f} "
                f"| {row['recall']:.2f} |",
                flush=True,
            )
    plot(rows, out / "methods.png")
    sheet(chosen.methods, out)


def rounded(number: float) -> str:
    """Three digits of it: 9.74, 84.1, 1,780."""
    return f"{float(f'{number:.3g}'):,.0f}" if number >= 100 else f"{number:.3g}"


def plot(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Quality against the time of a sample, a point a method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    along = sorted(rows.items(), key=lambda item: item[1]["samples_per_second"])
    for place, (title, row) in enumerate(along):
        below = place % 2  # names of neighbours, which may be close, are on either side
        x, y = 1000 / row["samples_per_second"], row["fid"]
        axes.scatter(x, y, s=20 + 60 * row["recall"], color="#0072B2", alpha=0.8)
        axes.annotate(
            f"{title} ({row['calls']:.0f})",
            (x, y),
            (4, 4 - 14 * below),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set(xscale="log", yscale="log", xlabel="processor time of a sample, ms", ylabel="Frechet distance")
    axes.set_title("Lower left is better; larger points cover more (recall); network calls in brackets")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def sheet(names: list[str], out: Path) -> None:
    """Sixteen samples of each method, a row each."""
    from PIL import Image, ImageDraw

    side, margin = 24, 90
    page = Image.new("L", (margin + 16 * side, len(names) * side), 255)
    for row, name in enumerate(names):
        ImageDraw.Draw(page).text((2, row * side + side / 2), name, fill=0, anchor="lm")
        drawn = load(out / name)(16, torch.Generator().manual_seed(0)).images
        for column, image in enumerate(drawn):
            tile = image.resize((side - 2, side - 2), Image.Resampling.NEAREST)
            page.paste(tile, (margin + column * side, row * side))
    page.save(out / "samples.png")


if __name__ == "__main__":
    main()
