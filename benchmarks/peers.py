"""The toolkit beside other libraries: one training step and sampling, with the same UNet and batch.

    python -m pip install denoising-diffusion-pytorch ema-pytorch
    python benchmarks/peers.py [--steps 60] [--samplings 6] [--recipe quickstart] [--device cuda]

Beside the toolkit: the loop of diffusers' example (train_unconditional.py) and DDPMPipeline, and the loop of
denoising-diffusion-pytorch's Trainer with ema-pytorch and its GaussianDiffusion, once around the same UNet
and once with the library's own, of about as many parameters. A library that is not installed is left out.

All take turns in this process, on images that are in memory already: no side pays for loading data. Each
side clips gradients, steps a fused AdamW or its own optimizer, and updates an average. Times are medians, of
the processor and of the clock; ratios are medians of the rounds, to the toolkit's.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.data.batches import Batches, DataOptions
from toolkit.devices.processes import Processes
from toolkit.randomness import generators_for
from toolkit.recipe import read_recipe
from toolkit.training.build import build
from toolkit.training.result import Previews
from toolkit.training.trainer import Trainer

Work = Callable[[], object]
CLIP = 1.0


def diffusers_step(model: Any, images: Tensor, accelerator: Any) -> Work:
    """The body of the loop of train_unconditional.py, its progress bar's `loss.item()` included."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, model_config=model.config)
    ema.to(images.device)
    scheduler = DDPMScheduler(num_train_timesteps=200)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=10_000)

    def step() -> None:
        noise = torch.randn_like(images)
        t = torch.randint(0, 200, (len(images),), device=images.device).long()
        noisy = scheduler.add_noise(images, noise, t)
        with accelerator.autocast():
            loss = nn.functional.mse_loss(model(noisy, t).sample.float(), noise.float())
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        loss.detach().item()

    return step


class AsUnet(nn.Module):
    """diffusers' UNet as denoising-diffusion-pytorch calls one."""

    self_condition = False

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.channels = self.out_dim = model.config.in_channels

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.model(x, t, return_dict=False)[0]  # type: ignore[no-any-return]


def gaussian_diffusion(model: nn.Module, size: int) -> Any:
    """Its DDPM around a network: 200 steps, noise prediction, linear betas."""
    from denoising_diffusion_pytorch import GaussianDiffusion

    return GaussianDiffusion(
        model, image_size=size, timesteps=200, objective="pred_noise", beta_schedule="linear"
    )


def gaussian_step(diffusion: Any, images: Tensor, accelerator: Any) -> Work:
    """The body of the loop of its Trainer, with the Trainer's Adam and average."""
    from ema_pytorch import EMA

    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10).to(images.device)
    data = (images + 1) / 2

    def step() -> None:
        diffusion.train()
        with accelerator.autocast():
            loss = diffusion(data)
        loss.item()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(diffusion.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    return step


def timed(work: Work, device: torch.device) -> tuple[float, float]:
    """Seconds of the processor and of the clock that a call takes."""
    processor, clock = time.process_time(), time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.process_time() - processor, time.perf_counter() - clock


def compare(what: str, works: dict[str, Work], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Every work once a round, in turns; a row for each."""
    for work in works.values():
        for _ in range(2):
            timed(work, device)
    times = [{name: timed(work, device) for name, work in works.items()} for _ in range(rounds)]
    rows = []
    for name in works:
        row: dict[str, Any] = {"what": what, "who": name}
        for i, kind in enumerate(("processor", "clock")):
            row[f"{kind}_ms"] = 1000 * statistics.median(one[name][i] for one in times)
            row[f"{kind}_ratio"] = statistics.median(one[name][i] / one["toolkit"][i] for one in times)
        rows.append(row)
        print(
            f"{what:14} {name:46} {row['processor_ms']:9.1f} ms of processor ({row['processor_ratio']:.3f}), "
            f"{row['clock_ms']:9.1f} ms ({row['clock_ratio']:.3f})",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60, help="rounds of training steps")
    parser.add_argument("--samplings", type=int, default=6, help="rounds of sampling")
    parser.add_argument("--num", type=int, default=16, help="images sampled at once")
    parser.add_argument("--recipe", default="quickstart", help="a DDPM of 200 steps")
    parser.add_argument("--device", default="cpu", choices=["cpu", "auto"])
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    chosen = parser.parse_args()
    recipe = read_recipe(chosen.recipe, [f"optimizers.denoiser.clip_norm={CLIP}"])
    with Processes(chosen.device, "float32") as processes:
        device, accelerator = processes.device, processes._accelerator  # there is one a process
        built = build(recipe, device)
        batches = Batches(built.source, DataOptions(), seed=0, device=device)
        options = recipe.common(("run",))
        trainer = Trainer(built.training, batches, processes, options)
        images = batches.get(0, options.batch_size).images

        def network() -> Any:
            return build(recipe, device).training.networks["denoiser"].model.train()

        training: dict[str, Work] = {
            "toolkit": trainer.step,
            "diffusers' example": diffusers_step(network(), images, accelerator),
        }
        pipeline = Previews(recipe, built, recipe.registry, processes).pipeline(0, average=False)
        assert pipeline is not None
        pipeline = pipeline.with_sampler("ancestral")
        sampling: dict[str, Work] = {
            "toolkit": lambda: pipeline.draw(generators_for(0, 0, chosen.num, device), chosen.num)
        }
        sampling["diffusers' DDPMPipeline"] = diffusers_sampling(network().eval(), chosen.num)
        try:
            from denoising_diffusion_pytorch import Unet
        except ImportError:
            print("denoising-diffusion-pytorch is not installed: left out")
        else:
            size, channels = images.shape[-1], images.shape[1]
            own = Unet(16, channels=channels, dim_mults=(1, 2), flash_attn=False).to(device)
            for name, model in {"the same UNet": AsUnet(network()), "its own Unet": own}.items():
                count = sum(p.numel() for p in model.parameters())
                diffusion = gaussian_diffusion(model, size).to(device)
                who = f"denoising-diffusion-pytorch, {name} ({count:,})"
                training[who] = gaussian_step(diffusion, images, accelerator)
                sampling[who] = gaussian_sampling(diffusion, chosen.num)
        rows = compare("training step", training, chosen.steps, device)
        rows += compare(f"{chosen.num} images", sampling, chosen.samplings, device)
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(rows, indent=1))


def diffusers_sampling(model: Any, num: int) -> Work:
    """200 network calls of its ancestral sampler."""
    from diffusers import DDPMPipeline, DDPMScheduler

    pipeline = DDPMPipeline(model, DDPMScheduler(num_train_timesteps=200))
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=num, num_inference_steps=200, output_type="np")


def gaussian_sampling(diffusion: Any, num: int) -> Work:
    """200 network calls of its sampler, whose progress bar cannot be switched off."""

    def sample() -> None:
        diffusion.eval()
        diffusion.sample(batch_size=num)

    return sample


if __name__ == "__main__":
    main()
