"""Surrogate starts as in table 4.5 of the thesis: whose images, from which t_mid, at what speed and quality.

    python benchmarks/surrogate.py --refiner RUN --classifier RUN --data FOLDER --out runs/surrogate \\
        --surrogates sngan=RUN dcgan=RUN vae=RUN ddpm8=RUN ddpm8-shared=RUN

The refiner is sampled by its own sampler (`ddpm_t1000_small`: 100 steps of a chain of 1000). A name that
ends in "-shared" hands over at t_mid instead of running its own chain to the end. Quality is the Frechet
distance and precision and recall of --classifier's features, between --num samples and as many held-out
images; speed is samples per second of processor time in batches of 64, next to the refiner's from noise.
Results are kept in OUT/results, and what is there is not computed again.
"""

import argparse
from pathlib import Path
from typing import Any

from measuring import BATCH, kept, scores, seconds

from toolkit import Pipeline, load

T_MIDS = (0, 250, 500, 750, 1000)


def speed(pipeline: Pipeline, reference: Pipeline) -> tuple[float, float]:
    """Samples per second of processor time, and relative to the reference, in turns; the better of two."""
    seconds(pipeline)
    ours, theirs = zip(*[(seconds(pipeline), seconds(reference)) for _ in range(2)], strict=True)
    return BATCH / min(ours), min(theirs) / min(ours)


def measure(pipeline: Pipeline, reference: Pipeline, chosen: argparse.Namespace) -> dict[str, float]:
    values = {"calls": float(pipeline.calls), "calls_before": float(pipeline.start.calls)}
    values["samples_per_second"], values["relative_speed"] = speed(pipeline, reference)
    stated = {
        "data.path": chosen.data, "features.path": chosen.classifier,
        "images.num": chosen.num, "images.real": chosen.num,
    }  # fmt: skip
    return values | scores(pipeline, chosen.recipe, stated, Path(chosen.out))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--refiner", required=True)
    parser.add_argument("--surrogates", nargs="+", required=True, metavar="NAME=RUN")
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="ddpm_t1000_small", help="whose [data] to compare with")
    parser.add_argument("--out", default="runs/surrogate")
    parser.add_argument("--num", type=int, default=2000)
    chosen = parser.parse_args()

    results = Path(chosen.out) / "results"
    results.mkdir(parents=True, exist_ok=True)
    refiner = load(chosen.refiner)
    rows: dict[str, dict[str, float]] = {}

    def row(name: str, pipeline: Pipeline) -> None:
        rows[name] = kept(results / f"{name}.json", lambda: measure(pipeline, refiner, chosen))
        print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)

    row("noise", refiner)
    for stated in chosen.surrogates:
        name, _, folder = stated.partition("=")
        handover = "shared" if name.endswith("-shared") else "full"
        for t_mid in T_MIDS[:-1] if handover == "shared" else T_MIDS:  # at T there is nothing to share
            started: dict[str, Any] = {"surrogate": str(Path(folder).resolve()), "handover": handover}
            row(f"{name}-{t_mid}", refiner.with_start("surrogate", t_mid=t_mid, **started))
    plot(rows, Path(chosen.out) / "surrogate.png")


def plot(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Quality against speed, a line for each surrogate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for kind in dict.fromkeys(name.rpartition("-")[0] for name in rows if name != "noise"):
        points = [(t, rows[f"{kind}-{t}"]) for t in T_MIDS if f"{kind}-{t}" in rows]
        axes.plot(
            [r["relative_speed"] for _, r in points], [r["fid"] for _, r in points], marker="o", label=kind
        )
        for t, r in points[:3]:  # the others crowd around the chain from noise
            axes.annotate(
                str(t), (r["relative_speed"], r["fid"]), textcoords="offset points", xytext=(4, 4), fontsize=7
            )
    axes.scatter(1.0, rows["noise"]["fid"], marker="*", s=120, color="black", label="from noise", zorder=3)
    axes.set(xscale="log", yscale="log", xlabel="samples/s relative to the refiner from noise")
    axes.set(ylabel="Frechet distance of classifier features", title="Numbers at the points are t_mid")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
