"""A truncated walk: from the generator, down the rest of the chain, in one folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from toolkit import (
    Chain,
    Denoiser,
    RecipeError,
    SamplingError,
    Saved,
    SavedNetwork,
    generators_for,
    load,
    load_plugins,
    randn,
    walk,
)
from toolkit.cli import main
from toolkit.diffusion.chain import linear
from toolkit.diffusion.samplers import Ancestral
from toolkit.testing.oracles import MEAN, Gaussian
from toolkit_tdpm.conformance import RECIPE
from toolkit_tdpm.start import Truncated

CPU = torch.device("cpu")


def started(chain: Chain, t_trunc: int) -> tuple[Truncated, Any]:
    registry = load_plugins().registry
    torch.manual_seed(0)
    table = registry.resolve(Denoiser, {"type": "gan_mlp_generator", "width": 8, "layers": 1})
    description = Saved(network=table, sample_shape=(2,), num_classes=10)
    network = description.build("network", registry, description.supplied(chain), "test")
    saved = SavedNetwork(network, description)
    return Truncated(chain, t_trunc).with_networks({"generator": saved, "denoiser": saved}), network


def test_a_walk_starts_at_the_diffused_image_of_the_generator() -> None:
    chain = linear(100, 1e-3, 0.2)
    start, network = started(chain, 30)
    assert (start.time, start.calls, start.t_trunc) == (29, 1, 30)
    x0 = start.draw((3, 2), generators_for(0, 0, 3, CPU), -1, CPU)
    generators = generators_for(0, 0, 3, CPU)
    randn((3, 2), generators, CPU)  # the noise of its own chain of one step, of which nothing is used
    z = network.latent(3, generators)
    assert torch.allclose(x0, network.net(z), atol=1e-6)
    for t in (29, 20):
        x_t = torch.cat([start.draw((1, 2), generators_for(i, 0, 1, CPU), t, CPU) for i in range(500)])
        x0 = torch.cat([start.draw((1, 2), generators_for(i, 0, 1, CPU), -1, CPU) for i in range(500)])
        alpha, sigma = (float(scale) for scale in chain.at(t, x_t))
        noise = (x_t - alpha * x0) / sigma
        assert noise.mean().item() == pytest.approx(0, abs=0.1) and noise.std().item() == pytest.approx(
            1, abs=0.1
        )


def test_a_walk_from_exact_images_ends_at_the_data() -> None:
    """With a generator of a point of the data, and the exact denoiser, the chain gives the data's spread."""
    chain, denoiser = linear(1000, 1e-4, 0.02), Gaussian(linear(1000, 1e-4, 0.02))
    start, network = started(chain, 500)
    for p in network.parameters():
        torch.nn.init.zeros_(p)
    network.net[-1].bias.data.copy_(MEAN)
    x = start.draw((4000, 2), None, 499, CPU)
    x = walk(Ancestral(chain), denoiser, chain, x, (*range(499, -1, -20), -1))
    assert torch.allclose(x.mean(0), MEAN, atol=0.05)


def test_outside_its_run_it_needs_a_generator(tmp_path: Path) -> None:
    start = Truncated(linear(100, 1e-3, 0.2), 30)
    assert start.with_networks({}) is start and start.pipelines() == {}
    with pytest.raises(SamplingError, match="start.generator: a start of type tdpm outside its run"):
        start.draw((1, 2), None, 29, CPU)
    with pytest.raises(ValueError, match="generator: .*no such folder"):
        Truncated(linear(100, 1e-3, 0.2), 30, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="t_trunc must be below 100, the chain's length, not 100"):
        Truncated(linear(100, 1e-3, 0.2), 100)


SIZES = """
[run]
batch_size = 16
steps = 4
[samples]
every = 2
num = 4
[checkpoints]
every = 2
"""


@pytest.mark.slow
def test_a_run_is_sampled_from_one_folder_that_can_be_moved(write: Callable[..., Path]) -> None:
    def toolkit(*args: str) -> str:
        result = CliRunner().invoke(main, args, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    recipe = str(write(RECIPE + SIZES, "tdpm.toml"))
    toolkit("train", recipe, "--set", "run.out=run")
    toolkit("train", recipe, "--set", "run.out=parts", "--set", "run.steps=2")
    toolkit("train", recipe, "--set", "run.out=parts", "--resume", "--change", "run.steps")
    pipeline = load("run")
    assert (pipeline.calls, pipeline.start.calls, len(pipeline.times)) == (50, 1, 51)
    images = pipeline(batch_size=3, generator=torch.Generator().manual_seed(0), output_type="pt").images
    shutil.move("run/pipeline", "elsewhere")
    shutil.rmtree("run")
    again = load("elsewhere")(
        batch_size=3, generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images
    assert torch.equal(images, again)
    for file in ("weights.safetensors", "start/generator/weights.safetensors"):
        assert (Path("elsewhere") / file).read_bytes() == (Path("parts/pipeline") / file).read_bytes()
    Path("elsewhere/start/generator/weights.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"\[start\] generator: .*start/generator"):
        load("elsewhere")
