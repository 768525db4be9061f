"""Importance sampling, IWDiff and their controls at matched compute, on MNIST at 16x16.

    python benchmarks/matched_compute.py --data FOLDER --classifier RUN --out runs/matched [--seeds 0 1 2]

Every method trains by its packaged recipe `<method>_small` from the same weights and data order a seed. Two
scores are taken of each run: after --steps steps, and after as many steps as cost what --steps steps of the
most expensive method cost ("same time"). The cost of a step is measured first, in one process, the methods
in turns, by processor time: time on the clock would count whatever else the machine does.

Scores: the variational bound in bits per dimension on held-out images (the same images and noise for every
run), and the Frechet distance of --classifier's features between samples and held-out images. Results are
kept in OUT/results, and what is there is not computed again; seeds may run in processes of their own.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from time import process_time

from measuring import kept

from toolkit.cli import main as toolkit
from toolkit.data.batches import Batches, DataOptions
from toolkit.devices.processes import Processes
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.runs.read import read_run
from toolkit.training.build import build
from toolkit.training.trainer import Trainer

METHODS = {
    "ddpm": "DDPM",
    "importance": "importance sampling",
    "importance_extra2": "importance sampling +2",
    "iwdiff": "IWDiff, k = 2",
    "iwdiff_uniform": "uniform weights, k = 2",
    "iwdiff_importance": "IWDiff, k = 2, importance",
}


def measured_costs(data: str, turns: int) -> dict[str, float]:
    """Processor time of a step of each method relative to DDPM's, the median over turns."""
    registry, trainers = plugins.load().registry, {}
    for method in METHODS:
        layers = read_layers(f"{method}_small", [f"data.path={data}", "data.limit=2000", "run.device=cpu"])
        recipe = resolve(layers, registry)
        options = recipe.common(("run",))
        processes = Processes(options.device, options.precision)
        built = build(recipe, processes.device)
        batches = Batches(built.source, DataOptions(), seed=0, device=processes.device)
        trainers[method] = Trainer(built.training, batches, processes, options)
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(turns + 2):
        for method, trainer in trainers.items():
            start = process_time()
            trainer.step()
            if turn >= 2:  # the first steps allocate
                times[method].append(process_time() - start)
    ratios = {m: [a / b for a, b in zip(times[m], times["ddpm"], strict=True)] for m in METHODS}
    return {method: statistics.median(ratio) for method, ratio in ratios.items()}


def run(method: str, seed: int, steps: int, chosen: argparse.Namespace) -> dict[str, float]:
    """Train, or go on to, so many steps, and score what is there."""
    out = Path(chosen.out) / f"{method}-{seed}"
    stated = {"data.path": chosen.data, "run.seed": seed, "run.steps": steps, "run.out": out}
    flags = [f"--set={key}={value}" for key, value in stated.items()]
    resume = ["--resume"] if out.exists() else []
    if not resume or read_run(out).step < steps:
        toolkit(["train", f"{method}_small", *flags, *resume], standalone_mode=False)
    stated = {
        "metrics.nll.images": chosen.nll_images,
        "features.path": chosen.classifier,
        "images.num": chosen.num,
        "images.real": chosen.num,
    }
    flags = [f"--set={key}={value}" for key, value in stated.items()]
    sampled = ["--sampler", "ddim", "--steps", "20", "--features", "classifier"]
    toolkit(["evaluate", str(out), "--metrics", "nll,fid", *sampled, *flags], standalone_mode=False)
    summary = read_run(out)
    values: dict[str, float] = {
        "steps": steps,
        "held_out_loss": summary.last("held_out/denoiser/loss") or 0.0,
    }
    for found in summary.scores:
        values |= found.values
    return values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="MNIST: a folder, or ylecun/mnist")
    parser.add_argument("--classifier", required=True, help="a run of classifier_mnist16")
    parser.add_argument("--out", default="runs/matched")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--turns", type=int, default=20, help="of the cost measurement")
    parser.add_argument("--num", type=int, default=1000, help="samples of a Frechet distance")
    parser.add_argument("--nll-images", type=int, default=64)
    chosen = parser.parse_args()

    results = Path(chosen.out) / "results"
    results.mkdir(parents=True, exist_ok=True)
    costs = kept(results / "costs.json", lambda: measured_costs(chosen.data, chosen.turns))
    print({method: round(cost, 3) for method, cost in costs.items()}, flush=True)
    for seed in chosen.seeds:
        for method in METHODS:
            same_time = round(chosen.steps * max(costs.values()) / costs[method])
            for point, steps in (("steps", chosen.steps), ("time", same_time)):
                path = results / f"{method}-{seed}-{point}.json"
                values = kept(path, partial(run, method, seed, steps, chosen))
                print(path.stem, values, flush=True)
    table(results)
    plot(results, Path(chosen.out) / "matched_compute.png")


def table(results: Path) -> None:
    """Mean over seeds, and the difference from DDPM seed by seed with its standard error."""
    read = {path.stem: json.loads(path.read_text()) for path in results.glob("*-*.json")}
    seeds = sorted({int(name.split("-")[1]) for name in read})
    names = ["bits_per_dim", "fid", "noise_mse", "held_out_loss"]
    for point in ("steps", "time"):
        print(
            f"\nafter the same {point}: mean over seeds {seeds}, difference from DDPM +- its standard error"
        )
        for method, title in METHODS.items():
            rows = [read.get(f"{method}-{seed}-{point}") for seed in seeds]
            base = [read.get(f"ddpm-{seed}-{point}") for seed in seeds]
            if None in rows or None in base:
                continue
            cells = []
            for name in names:
                values, ddpm = ([value_of(row, name) for row in some] for some in (rows, base))
                gaps = [a - b for a, b in zip(values, ddpm, strict=True)]
                error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
                cells.append(
                    f"{name} {statistics.mean(values):.4f} ({statistics.mean(gaps):+.4f} +- {error:.4f})"
                )
            print(f"{title:28}{rows[0]['steps']:6} steps  {'  '.join(cells)}")


def plot(results: Path, path: Path) -> None:
    """Each method's difference from DDPM at the same seed: a dot a seed, a bar for the mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    read = {path.stem: json.loads(path.read_text()) for path in results.glob("*-*.json")}
    seeds = sorted({int(name.split("-")[1]) for name in read})
    scores = {"bits_per_dim": "bits/dim of held-out images", "fid": "Frechet distance"}
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 6), sharex="col", sharey="row", layout="constrained")
    for column, point in enumerate(("steps", "time")):
        for row, (score, title) in enumerate(scores.items()):
            axes = panels[row][column]
            for x, method in enumerate(list(METHODS)[1:]):
                gaps = [
                    value_of(read[f"{method}-{seed}-{point}"], score)
                    - value_of(read[f"ddpm-{seed}-{point}"], score)
                    for seed in seeds
                ]
                axes.scatter([x] * len(gaps), gaps, s=24, color="#0072B2")
                axes.hlines(statistics.mean(gaps), x - 0.25, x + 0.25, color="#D55E00")
            axes.axhline(0, color="black", linewidth=0.8)
            axes.grid(axis="y", alpha=0.3)
            axes.set_xticks(range(len(METHODS) - 1), list(METHODS.values())[1:], rotation=25, ha="right")
            if column == 0:
                axes.set_ylabel(f"{title}\nless DDPM's")
        panels[0][column].set_title(f"after the same {point}")
    figure.suptitle("Below 0 is better than DDPM; a dot is a seed")
    figure.savefig(path, dpi=120)


def value_of(row: dict[str, float], name: str) -> float:
    """The value of that name, which may say by which features it is."""
    return next(value for key, value in row.items() if key == name or key.startswith(f"{name}_"))


if __name__ == "__main__":
    main()
