"""What a GPU learns of CIFAR-10 in a few minutes: trains a packaged recipe, samples, and scores the samples.

    python benchmarks/train_gpu.py --data FOLDER [--recipes ddpm_cifar flow_cifar ddgan_cifar] [--minutes 2]

Training is compiled (unless --eager), in bf16, with the data on the GPU; warm-up and averages are shortened
to fit the time. A classifier is trained first, for --classifier-minutes; its features score the samples by
a Frechet distance to training images, and so do ImageNet's features (`efficientnet_lite`), if its extra is
installed. Neither is the FID of the literature; the distance between two halves of the training images is
printed beside it. Writes RECIPE.png and RECIPE.json to --out.
"""

import argparse
import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import toolkit
from toolkit.pipeline.images import save_samples, to_uint8
from toolkit.recipe import read_recipe
from toolkit.registry import load as plugins
from toolkit.runs.read import read_run
from toolkit.training.loop import train
from toolkit_fidelity.frechet import fitted, frechet

SHORT = {  # what a run of minutes changes in each recipe, and how it then samples
    "ddpm_cifar": (
        ["optimizers.denoiser.lr_schedule.warmup=300", "ema.denoiser.ramp=true"],
        {"type": "ddim", "num_inference_steps": 50},
    ),
    "flow_cifar": (
        ["optimizers.denoiser.lr_schedule.warmup=300", "ema.denoiser.ramp=true"],
        {"num_inference_steps": 25},  # of Heun: 49 network calls
    ),
    "ddgan_cifar": (["ema.denoiser.ramp=true", "run.micro_batch_size=256"], {}),
}
TINY = {
    "ddpm_cifar": [
        "run.batch_size=8", "networks.denoiser.block_out_channels=[8, 8, 8, 8]",
        "networks.denoiser.norm_num_groups=4",
    ],
    "flow_cifar": [
        "run.batch_size=8", "networks.denoiser.block_out_channels=[8, 8, 8, 8]",
        "networks.denoiser.norm_num_groups=4", "networks.denoiser.attention_head_dim=4",
    ],
    "ddgan_cifar": [
        "run.batch_size=8", "run.micro_batch_size=8",
        "networks.denoiser.block_out_channels=[8, 8, 8, 8]",
        "networks.discriminator.channels=4",
    ],
    "classifier_cifar": ["run.batch_size=8", "networks.classifier.channels=8"],
}  # fmt: skip


def trained(name: str, chosen: argparse.Namespace, minutes: float, flags: list[str]) -> Path:
    """Train a recipe for some minutes; its run folder."""
    out = chosen.out / name
    flags = [
        *flags, f'data.path="{chosen.data}"', f"run.minutes={minutes}", f'run.out="{out}"',
        "run.log_every=20",
        "checkpoints.every=1000000", "samples.num=0", *(["run.device=cpu"] if chosen.device == "cpu" else []),
    ]  # fmt: skip
    flags += [*TINY[name], "run.steps=2", "data.limit=64"] if chosen.tiny else []
    train(read_recipe(name, flags), plugins.load(), overwrite=True)
    return out


def extractor(table: dict[str, Any]) -> toolkit.FeatureExtractor:
    registry = plugins.load().registry
    return registry.create(toolkit.FeatureExtractor, table, supplied={}, where=str)  # type: ignore[no-any-return]


def measured(
    name: str, chosen: argparse.Namespace, real: Tensor, extractors: dict[str, toolkit.FeatureExtractor]
) -> None:
    """Train, sample and score one recipe; prints and writes the results."""
    flags, sampler = SHORT[name]
    on_gpu = chosen.device != "cpu"
    compiled = on_gpu and not chosen.eager
    flags = [*flags, f"networks.denoiser.compile={str(compiled).lower()}"]
    run = trained(name, chosen, chosen.minutes, flags)
    summary = read_run(run)
    result: dict[str, Any] = {
        "recipe": name, "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "minutes": chosen.minutes,
        "steps": summary.step, "train_images_per_second": summary.images_per_second,
        "last": summary.records[-1] if summary.records else {},
    }  # fmt: skip
    pipeline = toolkit.load(run).to(chosen.device)
    pipeline = pipeline.with_sampler(**sampler) if sampler else pipeline
    if chosen.tiny:
        pipeline = pipeline.with_sampler(num_inference_steps=4)
    if compiled:
        pipeline.compile()
    batch = min(chosen.num, 500)

    def sample(num: int) -> Tensor:
        with torch.autocast(chosen.device, torch.bfloat16, enabled=on_gpu):
            return torch.cat([images.cpu() for images in pipeline.sample(num, batch_size=batch)])

    start = time.perf_counter()
    sample(batch)  # compiles
    first, start = time.perf_counter() - start, time.perf_counter()
    samples = sample(chosen.num)
    seconds = time.perf_counter() - start
    save_samples(samples[:64], chosen.out / f"{name}.png")
    result |= {
        "calls": pipeline.calls, "sampled": len(samples), "first_batch_s": first,
        "sample_images_per_second": len(samples) / seconds,
    }  # fmt: skip
    device = torch.device(chosen.device)
    for kind, by in extractors.items():
        of_real, of_samples = (by.extract(images, device).features for images in (real, to_uint8(samples)))
        first, second = (fitted(half) for half in of_real.chunk(2))
        result[f"frechet_{kind}"] = frechet(fitted(of_samples), first)
        result[f"frechet_{kind}_of_training_halves"] = frechet(second, first)
    (chosen.out / f"{name}.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="CIFAR-10, as `datasets` reads it")
    parser.add_argument("--recipes", nargs="+", default=list(SHORT), choices=list(SHORT))
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, for each recipe")
    parser.add_argument("--classifier-minutes", type=float, default=0.5)
    parser.add_argument("--num", type=int, default=10_000, help="samples to score")
    parser.add_argument("--out", type=Path, default=Path("runs/train_gpu"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="compile nothing: a minute that short runs save")
    parser.add_argument("--tiny", action="store_true", help="small networks and two steps")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)

    classifier = trained("classifier_cifar", chosen, chosen.classifier_minutes, [])
    last = read_run(classifier).records
    print(json.dumps({"classifier": {k: v for r in last[-2:] for k, v in r.items()}}), flush=True)
    extractors = {"classifier": extractor({"type": "classifier", "path": str(classifier)})}
    if find_spec("efficientnet_lite_pytorch"):
        extractors["efficientnet_lite"] = extractor({"type": "efficientnet_lite"})
    source = read_recipe("ddpm_cifar", [f'data.path="{chosen.data}"']).create(("data",), {})
    real = source.read(torch.arange(min(2 * chosen.num, len(source))))[0]
    for name in chosen.recipes:
        measured(name, chosen, real, extractors)


if __name__ == "__main__":
    main()
