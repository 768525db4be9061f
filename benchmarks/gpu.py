"""How fast a GPU trains and samples with the packaged CIFAR-10 recipes, and where its time goes.

    python benchmarks/gpu.py [--minutes 4] [--out gpu.json] [--device cpu --tiny]

Images are random, so no data is needed. Each row is a recipe with some settings. Training: images/s; the
ratio of the time to that of a bare loop and of the loop in diffusers' example, both at the same settings,
measured in turns; the share of the peak of bf16 matrix products (measured first) that a step's operations
amount to; peak memory; and how often a step makes the host wait for the device. Sampling: images/s, by calls
of the network. The JSON is written after every row, the most important rows come first, and rows that no
longer fit into --minutes are named as skipped. `--tiny` shrinks networks and batches, to see that every row
works.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from toolkit import DataSource, Pipeline
from toolkit.devices.processes import Processes
from toolkit.randomness import generators_for
from toolkit.recipe import Recipe, read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.build import build
from toolkit.training.objective import Step
from toolkit.training.result import Previews
from toolkit.training.session import Session, session
from toolkit.training.trainer import RunOptions

Row = dict[str, Any]
Work = Callable[[], object]

SMALL_UNET = (
    "block_out_channels=[8, 8]", "norm_num_groups=4", "layers_per_block=1",
    'down_block_types=["DownBlock2D", "AttnDownBlock2D"]', 'up_block_types=["AttnUpBlock2D", "UpBlock2D"]',
)  # fmt: skip
TINY = {  # overrides, by recipe
    "ddpm_cifar": [f"networks.denoiser.{option}" for option in SMALL_UNET],
    "improved_ddpm_cifar": [
        *(f"networks.denoiser.{option}" for option in SMALL_UNET),
        "networks.denoiser.attention_head_dim=4",
        "networks.denoiser.attn_norm_num_groups=4",
    ],
    "ddgan_cifar": [
        "networks.denoiser.block_out_channels=[8, 8]",
        "networks.denoiser.layers_per_block=1",
        "networks.denoiser.mapping_width=8",
        "networks.discriminator.channels=4",
        "run.micro_batch_size=4",
    ],
    "edm_cifar": [
        "networks.denoiser.network.block_out_channels=[8, 8]",
        "networks.denoiser.network.norm_num_groups=4",
        "networks.denoiser.network.layers_per_block=1",
        'networks.denoiser.network.down_block_types=["DownBlock2D", "AttnDownBlock2D"]',
        'networks.denoiser.network.up_block_types=["AttnUpBlock2D", "UpBlock2D"]',
    ],
    "dit_cifar": [
        "networks.denoiser.num_layers=1",
        "networks.denoiser.num_attention_heads=1",
        "networks.denoiser.attention_head_dim=8",
    ],
}


class RandomImages(DataSource):
    """Noise of CIFAR-10's shape, size and number of classes.

    Args:
        examples: how many.
    """

    image_shape, num_classes = (3, 32, 32), 10

    def __init__(self, examples: int = 50_000) -> None:
        self._images = torch.randint(256, (examples, 3, 32, 32), dtype=torch.uint8)
        self._labels = torch.randint(10, (examples,))

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._images[indices], self._labels[indices]


@dataclass(frozen=True)
class Settings:
    """How a network computes."""

    precision: str = "bf16"
    tf32: bool = True
    channels_last: bool = False
    compiled: str = ""  # "default", or "reduce-overhead", which replays CUDA graphs

    def __str__(self) -> str:
        name = "tf32" if self.precision == "float32" and self.tf32 else self.precision
        last = ["channels_last"] if self.channels_last else []
        return " + ".join(
            [name, *last, *{"": [], "default": ["compile"]}.get(self.compiled, ["CUDA graphs"])]
        )


@dataclass
class Bench:
    """What all rows share: the device, the time that is left, and the results so far."""

    device: torch.device
    tiny: bool
    ends: float
    out: Path
    peak: float = 0.0  # FLOP/s of bf16 matrix products
    results: dict[str, Any] = field(default_factory=dict)

    def recipe(self, name: str, settings: Settings) -> Recipe:
        """The packaged recipe on random images, with these settings."""
        registry = plugins.load().registry.copy()
        registry.add(DataSource, "random_images", RandomImages)
        flags = ["data.type=random_images", f"data.examples={64 if self.tiny else 50_000}"]
        flags += [f"run.precision={settings.precision}", f"run.tf32={str(settings.tf32).lower()}"]
        flags += [*TINY[name], "run.batch_size=8"] if self.tiny else []
        roles = resolve(read_layers(name, flags), registry).tables["networks"]
        flags += [f"networks.{r}.channels_last={str(settings.channels_last).lower()}" for r in roles]
        return resolve(read_layers(name, flags), registry)

    @contextmanager
    def session(self, name: str, settings: Settings) -> Iterator[Session]:
        """A run by that recipe, ready for its first step."""
        recipe = self.recipe(name, settings)
        options: RunOptions = recipe.common(("run",))
        with (
            Processes(
                "cpu" if self.device.type == "cpu" else "auto", options.precision,
                tf32=options.tf32, cudnn_benchmark=options.cudnn_benchmark,
            ) as processes,
            session(recipe, processes, options) as ready,
        ):  # fmt: skip
            if settings.compiled:
                ready.built.training.networks["denoiser"].compile(**self.how(settings))
            yield ready

    def how(self, settings: Settings) -> dict[str, Any]:
        """Arguments of torch.compile; a tiny test compiles to nothing, as the real thing takes minutes."""
        return {"backend": "eager"} if self.tiny else {"mode": settings.compiled}

    def wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def seconds(self, work: Work, times: int = 1) -> float:
        """The mean time of a call."""
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return (time.perf_counter() - start) / times

    def in_turns(self, *works: Work) -> list[float]:
        """The median time of each work, from blocks of calls that take turns; all are warm afterwards."""
        for work in works:
            for _ in range(1 if self.tiny else 4):
                work()
        block = 0.0 if self.tiny else 0.5
        times = [max(1, round(block / self.seconds(work))) for work in works]
        blocks = [
            [self.seconds(work, n) for work, n in zip(works, times, strict=True)]
            for _ in range(1 if self.tiny else 3)
        ]
        return [statistics.median(one) for one in zip(*blocks, strict=True)]

    def memory(self) -> float | None:
        """Peak of allocated device memory in GiB since the last call."""
        if self.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return round(peak, 2)

    def syncs(self, work: Work, times: int = 3) -> tuple[float | None, list[str]]:
        """How often a call makes the host wait for the device, and the lines of code that do."""
        if self.device.type != "cuda":
            return None, []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                for _ in range(times):
                    work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
        return len(places) / times, sorted(set(places))

    def write(self) -> None:
        temporary = self.out.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.results, indent=1))
        temporary.replace(self.out)


def matmul_peak(bench: Bench) -> Row:
    """FLOP/s of a product of two 8192 x 8192 matrices in bf16."""
    side = 64 if bench.tiny else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    (seconds,) = bench.in_turns(lambda: a @ b)
    bench.peak = 2 * side**3 / seconds
    return {"tflops": bench.peak / 1e12}


def training(bench: Bench, name: str, settings: Settings) -> Row:
    """One recipe's training step."""
    bench.memory()
    with bench.session(name, settings) as ready:
        step, batch = ready.trainer.step, ready.trainer.options.batch_size
        first = bench.seconds(step)
        for _ in range(2):
            step()
        memory = bench.memory()
        row: Row = {"first_step_s": first, "peak_memory_gib": memory}
        row["syncs_a_step"], row["syncs_at"] = bench.syncs(step)
        others: dict[str, Work] = {}
        if not settings.compiled:
            counter = FlopCounterMode(display=False)
            with counter:
                step()
            row["tflop_a_step"] = counter.get_total_flops() / 1e12
            others["bare"] = bare_step(bench, name, settings, ready)
            if name == "ddpm_cifar":
                others["diffusers"] = diffusers_step(bench, name, settings, ready)
        else:
            eager = [r for r in bench.results["rows"] if r["what"] == f"train {name}" and "tflop_a_step" in r]
            row["tflop_a_step"] = eager[0]["tflop_a_step"] if eager else 0.0
        seconds, *theirs = bench.in_turns(step, *others.values())
    row |= {"ms_a_step": 1000 * seconds, "images_per_second": batch / seconds}
    row["share_of_peak"] = row["tflop_a_step"] * 1e12 / seconds / bench.peak
    return row | {f"ratio_to_{other}": seconds / one for other, one in zip(others, theirs, strict=True)}


def bare_step(bench: Bench, name: str, settings: Settings, ready: Session) -> Work:
    """The step as one would write it by hand: same networks, losses, clipping and averages, no trainer."""
    recipe, device = ready.built.recipe, bench.device
    twin = build(recipe, device).training
    data = torch.randint(256, (1024, 3, 32, 32), dtype=torch.uint8, device=device)
    options = ready.trainer.options
    micro = options.micro_batch_size or options.batch_size
    for role, network in twin.networks.items():
        network.train(role in twin.optimizers)
    state = {role: [*n.parameters(), *n.buffers()] for role, n in twin.networks.items()}
    averages = {role: [tensor.detach().clone() for tensor in state[role]] for role in twin.ema}
    turns = twin.objective.turns()
    number = 0

    def contexts() -> Any:
        bf16 = settings.precision == "bf16"
        return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()

    def float32() -> Any:
        return torch.autocast(device.type, enabled=False)

    def loss_of(turn: Any, images: Tensor) -> Tensor:
        if name == "ddpm_cifar":  # written out; for the others the objective's own loss
            network: Any = twin.networks["denoiser"]
            t = torch.randint(1000, (len(images),), device=device)
            noise = torch.randn_like(images)
            x_t = alpha[t] * images + sigma[t] * noise
            return (network.model(x_t, t, return_dict=False)[0].float() - noise).square().mean()
        step = Step(number, 0, device, twin.networks, twin.networks, float32, ready.processes.no_grad)
        total: Tensor = turn.loss(replace(ready.batches.get(0, micro), images=images), step).total
        return total

    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0).view(-1, 1, 1, 1)
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()

    def step() -> None:
        nonlocal number
        for turn in turns:
            for role, network in twin.networks.items():
                network.requires_grad_(role in turn.trains)
            for _ in range(options.batch_size // micro):
                images = data[torch.randint(len(data), (micro,), device=device)].float() / 127.5 - 1
                with contexts():
                    loss = loss_of(turn, images)
                (loss * micro / options.batch_size).backward()
            for role in turn.trains:
                norm = twin.optimizer_options[role].clip_norm
                if norm is not None:
                    nn.utils.clip_grad_norm_(twin.networks[role].parameters(), norm)
                twin.optimizers[role].step()
                twin.optimizers[role].zero_grad()
                if role in averages:
                    with torch.no_grad():
                        torch._foreach_lerp_(averages[role], state[role], 1e-4)
        number += 1

    return step


def diffusers_step(bench: Bench, name: str, settings: Settings, ready: Session) -> Work:
    """The loop of diffusers' train_unconditional.py, with images that are on the device already."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    network: Any = build(ready.built.recipe, bench.device).training.networks["denoiser"]
    model, batch = network.model.train(), ready.trainer.options.batch_size
    images = torch.rand(batch, *ready.built.source.image_shape, device=bench.device) * 2 - 1
    accelerator = ready.processes._accelerator  # there is one a process; its precision is the settings'
    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, model_config=model.config)
    ema.to(accelerator.device)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=10_000)
    model, optimizer, rate = accelerator.prepare(model, optimizer, rate)

    def step() -> None:
        noise = torch.randn(images.shape, device=images.device)
        t = torch.randint(0, 1000, (batch,), device=images.device).long()
        noisy = scheduler.add_noise(images, noise, t)
        with accelerator.accumulate(model):
            loss = nn.functional.mse_loss(model(noisy, t).sample.float(), noise.float())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            ema.step(model.parameters())
        loss.detach().item()  # its progress bar

    return step


def sampling(bench: Bench, name: str, settings: Settings, calls: int, batch: int) -> Row:
    """Images from a network with fresh weights, by that many calls."""
    calls, batch = (min(calls, 4), min(batch, 2)) if bench.tiny else (calls, batch)
    bench.memory()
    with bench.session(name, replace(settings, compiled="")) as ready:
        pipeline = Previews(ready.built.recipe, ready.built, ready.built.recipe.registry, ready.processes)
        drawn_by: Pipeline | None = pipeline.pipeline(0, average=False)
        assert drawn_by is not None
        if calls < len(drawn_by.times) - 1:
            drawn_by = drawn_by.with_sampler("ddim", num_inference_steps=calls)
        drawn_by.denoiser.eval().requires_grad_(False)
        if settings.compiled:
            drawn_by.compile(**bench.how(settings))
        generators = generators_for(0, 0, batch, bench.device)

        def draw() -> None:
            with ready.processes.autocast():
                drawn_by.draw(generators, batch)

        first = bench.seconds(draw)
        seconds = bench.seconds(draw)
        row: Row = {"batch": batch, "calls": drawn_by.calls, "first_batch_s": first}
        row |= {"ms_a_call": 1000 * seconds / drawn_by.calls, "images_per_second": batch / seconds}
        if not settings.compiled and calls <= 50:
            x = torch.randn(batch, 3, 32, 32, device=bench.device)
            t = torch.zeros(batch, dtype=torch.int64, device=bench.device)

            @torch.inference_mode()
            def bare() -> None:
                with ready.processes.autocast():
                    for _ in range(drawn_by.calls):
                        drawn_by.denoiser(x, t)

            ours, theirs = bench.in_turns(draw, bare)
            row["ratio_to_bare"] = ours / theirs
    return row | {"peak_memory_gib": bench.memory()}


def profile(bench: Bench, name: str, settings: Settings) -> Row:
    """The ten operations that take most of the device's time in training, and how long it computes at all."""
    from torch.profiler import ProfilerActivity

    on_cpu = bench.device.type == "cpu"
    steps = 1 if bench.tiny else 5
    with bench.session(name, settings) as ready:
        for _ in range(2 if bench.tiny else 6):
            ready.trainer.step()
        bench.wait()
        with torch.profiler.profile(
            activities=[ProfilerActivity.CPU if on_cpu else ProfilerActivity.CUDA]
        ) as profiler:
            wall = bench.seconds(ready.trainer.step, steps)
    times = {
        event.key: (event.self_cpu_time_total if on_cpu else event.self_device_time_total) / steps / 1e3
        for event in profiler.key_averages()
    }
    total = sum(times.values())
    top = sorted(times.items(), key=lambda item: -item[1])[:10]
    return {
        "ms_a_step": 1000 * wall,
        "device_busy": total / (1000 * wall),
        "top": [{"kernel": key[:90], "ms": ms, "share": ms / total} for key, ms in top],
    }


BF16, TF32, FLOAT32 = Settings(), Settings("float32"), Settings("float32", tf32=False)
LAST = Settings(channels_last=True)
COMPILED, GRAPHS = (Settings(channels_last=True, compiled=mode) for mode in ("default", "reduce-overhead"))
NAMES = ("ddgan_cifar", "improved_ddpm_cifar", "edm_cifar", "dit_cifar")  # beside ddpm_cifar

Plan = list[tuple[str, Settings, float, Callable[[Bench], Row]]]  # what, how, seconds it may take, the row


def plan() -> Plan:
    """All rows, the most important first."""

    def train(name: str, settings: Settings, seconds: float = 12) -> None:
        rows.append((f"train {name}", settings, seconds, lambda b: training(b, name, settings)))

    def sample(name: str, settings: Settings, calls: int, batch: int = 256, seconds: float = 6) -> None:
        what = f"sample {name}, {calls} calls, batch {batch}"
        rows.append((what, settings, seconds, lambda b: sampling(b, name, settings, calls, batch)))

    def show(name: str, settings: Settings) -> None:
        rows.append((f"profile {name}", settings, 8, lambda b: profile(b, name, settings)))

    rows: Plan = [("8192^3 matrix product", Settings(), 2, matmul_peak)]
    train("ddpm_cifar", BF16)  # eager rows are bound by the host (measured): those without it come next
    train("ddpm_cifar", COMPILED, 60)
    train("ddpm_cifar", GRAPHS, 60)
    train("dit_cifar", BF16)
    train("dit_cifar", COMPILED, 40)
    for batch, seconds in ((16, 40), (256, 40)):
        sample("ddpm_cifar", BF16, 50, batch)
        sample("ddpm_cifar", GRAPHS, 50, batch, seconds)
    train("ddgan_cifar", BF16, 40)
    train("ddgan_cifar", COMPILED, 90)
    sample("ddgan_cifar", BF16, 4)
    sample("ddgan_cifar", GRAPHS, 4, seconds=60)
    show("ddpm_cifar", COMPILED)
    for name in ("improved_ddpm_cifar", "edm_cifar"):
        train(name, BF16)
        train(name, COMPILED, 90)
    for calls in (1, 4):
        sample("ddpm_cifar", BF16, calls)
    sample("ddpm_cifar", BF16, 1000, 64, 25)
    sample("ddpm_cifar", GRAPHS, 1000, 64, 60)
    sample("ddpm_cifar", COMPILED, 50, seconds=40)
    for settings in (TF32, FLOAT32):
        train("ddpm_cifar", settings)
    for name in NAMES:
        show(name, BF16)
    for settings in (LAST, TF32, FLOAT32):
        for name in ("ddpm_cifar", *NAMES) if settings is LAST else NAMES:
            train(name, settings, 15)
    return rows


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""

    def shown(value: object) -> str:
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    columns = {
        "images_per_second": "images/s", "ms_a_step": "ms a step", "ms_a_call": "ms a call",
        "ratio_to_bare": "time / bare", "ratio_to_diffusers": "time / diffusers",
        "share_of_peak": "share of peak", "peak_memory_gib": "GiB", "syncs_a_step": "syncs",
        "first_step_s": "first step, s", "tflops": "TFLOP/s", "device_busy": "device busy",
    }  # fmt: skip
    lines = [f"{results['device']}, torch {results['torch']}", ""]
    lines += ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in results["rows"]:
        cells = [row.get("error", "")[:60] or f"{row['what']}: {row['settings']}"]
        lines.append("| " + " | ".join([*cells, *(shown(row.get(key)) for key in columns)]) + " |")
    for row in results["rows"]:
        for one in row.get("top", ()):
            lines.append(f"{row['what']}  {one['share']:6.1%}  {one['ms']:7.3f} ms  {one['kernel']}")
    lines += [f"skipped: {what}" for what in results["skipped"]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=4.0, help="rows that would end later are skipped")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and batches, nothing compiled")
    parser.add_argument("--only", default="", help="rows whose name has this text")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    bench = Bench(device, chosen.tiny, time.monotonic() + 60 * chosen.minutes, chosen.out)
    card = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    bench.results = {"device": card, "torch": torch.__version__, "rows": [], "skipped": []}
    for what, settings, seconds, work in plan():
        if chosen.only not in what and work is not matmul_peak:
            continue
        if time.monotonic() + (0 if chosen.tiny else seconds) > bench.ends:
            bench.results["skipped"].append(f"{what}: {settings}")
            continue
        row: Row = {"what": what, "settings": str(settings), **asdict(settings)}
        start = time.monotonic()
        try:
            row |= work(bench)
        except Exception as error:  # the other rows may still work, and time on a GPU is dear
            if chosen.tiny:
                raise
            row["error"] = f"{what}: {settings}: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
        torch._dynamo.reset()
        row["took_s"] = time.monotonic() - start
        bench.results["rows"].append(row)
        bench.write()
        print(json.dumps({key: value for key, value in row.items() if key != "top"}), flush=True)
    bench.write()
    print(table(bench.results))


if __name__ == "__main__":
    main()
