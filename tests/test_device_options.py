"""What makes networks fast and small: compiled, recomputed activations, micro-batches that fit."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import finished, install, metrics, refused, resumed, train
from tiny import TINY_DDGAN, TINY_DDPM
from torch import Tensor, nn

from toolkit.devices.networks import Compile, blocks, compile_network
from toolkit.devices.processes import Processes
from toolkit.recipe import read_recipe
from toolkit.training.build import build
from toolkit.training.fit import fits, largest, relief
from toolkit.training.session import session

Write = Callable[..., Path]

ATTENTIVE = TINY_DDPM.replace('"DownBlock2D", "DownBlock2D"', '"DownBlock2D", "AttnDownBlock2D"').replace(
    '"UpBlock2D", "UpBlock2D"', '"AttnUpBlock2D", "UpBlock2D"'
)
NARROW = TINY_DDPM[TINY_DDPM.index("[networks.denoiser]") : TINY_DDPM.index("[optimizers.denoiser]")]
TRANSFORMER = """[networks.denoiser]
type = "dit"
patch_size = 2
num_layers = 2
num_attention_heads = 2
attention_head_dim = 8
"""
DIT = TINY_DDPM.replace(NARROW, TRANSFORMER)


def weights(run: str, role: str = "denoiser") -> dict[str, Tensor]:
    newest = sorted(Path(run, "checkpoints").iterdir())[-1]
    return load_file(newest / "networks" / f"{role}.safetensors")


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "roles"),
    [(ATTENTIVE, ["denoiser"]), (DIT, ["denoiser"]), (TINY_DDGAN, ["denoiser", "discriminator"])],
    ids=["unet", "dit", "ddgan"],
)
def test_recomputed_activations_give_the_same_bits(text: str, roles: list[str], write: Write) -> None:
    """Dropout and the exact R1, which differentiates twice, included; a run may go on without."""
    recipe = write(text)
    again = [f"networks.{role}.checkpoint_activations=true" for role in roles]
    finished(recipe, "run.out=usual", "samples.num=0")
    finished(recipe, "run.out=again", "run.steps=2", "samples.num=0", *again)
    resumed(recipe, "run.out=again", "samples.num=0")
    for role in roles:
        assert same_bits(weights("usual", role), weights("again", role))


def kept_for_backward(text: str, write: Write, *flags: str) -> int:
    """Bytes of the tensors that a forward pass keeps, weights left out."""
    recipe = read_recipe(write(text), list(flags))
    network = build(recipe, torch.device("cpu")).training.networks["denoiser"].train()
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        prediction = network(torch.randn(32, 1, 8, 8), torch.arange(32) % 20)
        assert prediction.noise.requires_grad
    return sum(sizes.values())


def test_what_is_computed_again_is_not_kept(write: Write) -> None:
    wide = ATTENTIVE.replace("layers_per_block = 1", "layers_per_block = 2")
    usual = kept_for_backward(wide, write)
    assert kept_for_backward(wide, write, "networks.denoiser.checkpoint_activations=true") < 0.5 * usual


def test_blocks_of_a_unet_are_its_residual_and_attention_blocks(write: Write) -> None:
    network = build(read_recipe(write(ATTENTIVE)), torch.device("cpu")).training.networks["denoiser"]
    names = [name.removeprefix("model.") for name, _ in blocks(network)]
    assert "down_blocks.1.attentions.0" in names and "mid_block.resnets.1" in names
    kinds = {type(block).__name__ for _, block in blocks(network)}
    assert kinds == {"ResnetBlock2D", "Attention", "Downsample2D", "Upsample2D"}


def test_state_that_a_forward_pass_changes_is_not_computed_again(write: Write) -> None:
    batch_norm = "networks.generator.checkpoint_activations=true"
    error = refused(train("sngan_mnist_small", "data.type=digits", "run.steps=1", batch_norm))
    assert "networks.generator] checkpoint_activations = true: the network has a buffer" in error
    assert "batch normalisation" in error


def test_a_network_without_blocks_cannot_compute_them_again(write: Write) -> None:
    flags = ["networks.denoiser.checkpoint_activations=true", "run.steps=1"]
    assert "has no blocks" in refused(train("ddpm_25gaussians", *flags))


@pytest.mark.parametrize(("fitting", "found"), [(99, 96), (95, 48), (31, 24), (2, 1), (1, 1), (0, None)])
def test_the_largest_micro_batch_is_a_divisor_found_by_halving(fitting: int, found: int | None) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= fitting

    assert largest(96, fits) == found
    assert all(96 % size == 0 for size in tried)


GREEDY = """
import torch
from toolkit import Batch, Denoiser, Loss, Objective, Step, Turn, hookimpl

class Greedy(Objective):
    \"\"\"Needs more memory than there is for more than some examples at once.

    Args:
        at: the step from which on.
        rows: how many examples fit.
    \"\"\"
    roles = {"denoiser": Denoiser}
    samples = "denoiser"

    def __init__(self, rows: int, at: int = 0) -> None:
        super().__init__()
        self.at, self.rows = at, rows

    def turns(self):
        return (Turn("greedy", ("denoiser",), self._loss),)

    def _loss(self, batch: Batch, step: Step) -> Loss:
        if len(batch.images) > self.rows and step.number >= self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        t = torch.zeros(len(batch.images), dtype=torch.int64)
        return Loss(step.networks["denoiser"](batch.images, t).noise.square().mean())

@hookimpl
def toolkit_components(registry):
    registry.add(Objective, "greedy", Greedy)
"""


@pytest.fixture
def greedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Write) -> Path:
    install(monkeypatch, tmp_path, "greedy", GREEDY)
    return write(TINY_DDPM.replace('type = "denoising"', 'type = "greedy"\nrows = 2'))


def test_what_does_not_fit_is_found_by_trying_and_leaves_nothing_behind(greedy: Path) -> None:
    recipe = read_recipe(greedy)
    options = recipe.common(("run",))
    with Processes("cpu") as processes:
        assert not fits(recipe, options, processes, 4)
        assert fits(recipe, options, processes, 2)
        with session(recipe, processes, options) as ready:
            assert ready.trainer.number == 0


def test_a_step_that_does_not_fit_into_memory_says_what_takes_less(greedy: Path) -> None:
    result = train(greedy, "objective.at=3", "checkpoints.every=2")
    assert result.exit_code == 2 and "Traceback" not in result.output
    said = " ".join(result.output.split())
    assert "step 3 does not fit into memory" in said and "The last checkpoint is" in said
    assert '[run] micro_batch_size below 4, or "auto"' in said
    assert "checkpoint_activations = true in [networks.denoiser]" in said


def test_networks_in_parts_are_not_told_to_try_micro_batches(write: Write) -> None:
    recipe = read_recipe(write(), ["run.sharding=fsdp"])
    assert "[run] micro_batch_size below 4;" in relief(recipe)


def test_a_micro_batch_that_was_found_is_recorded_and_kept(write: Write) -> None:
    recipe = write()
    finished(recipe, "run.micro_batch_size=auto", "run.out=auto", "run.steps=2")
    found = tomllib.loads(Path("auto/recipe.toml").read_text())["run"]["micro_batch_size"]
    assert found == 8  # on a CPU it is the whole batch
    resumed(recipe, "run.micro_batch_size=auto", "run.out=auto")
    finished(recipe, "run.micro_batch_size=8", "run.out=stated")
    assert same_bits(weights("auto"), weights("stated"))


@pytest.mark.slow
def test_a_compiled_network_learns_what_it_learns_uncompiled(write: Write) -> None:
    """By inductor; the generator of DDGAN, whose discriminator is differentiated twice."""
    recipe, compiled = write(TINY_DDGAN), "networks.denoiser.compile=true"
    short = ("run.steps=2", "run.log_every=1", "samples.num=0")
    finished(recipe, "run.out=usual", *short)
    said = finished(recipe, "run.out=compiled", compiled, *short, "run.steps=1").output
    assert "compiling: the first steps take a minute or more" in " ".join(said.split())
    resumed(recipe, "run.out=compiled", compiled, *short)
    assert weights("usual").keys() == weights("compiled").keys()
    usual, compiled_too = (
        [record for record in metrics(Path(run)) if "denoiser/loss" in record]
        for run in ("usual", "compiled")
    )
    assert usual[0]["discriminator/loss"] == pytest.approx(compiled_too[0]["discriminator/loss"], rel=1e-4)
    # Adam's first update has the sign of each gradient, however small, so that all after it differs more.
    for one, other in zip(usual, compiled_too, strict=True):
        for name in ("discriminator/loss", "denoiser/loss", "denoiser/gradient_norm"):
            assert one[name] == pytest.approx(other[name], rel=0.05), name


@pytest.mark.parametrize(
    ("how", "mode"), [(True, None), ("max-autotune", "max-autotune"), ("cudagraphs", "reduce-overhead")]
)
def test_a_way_to_compile_is_a_mode_of_torch(how: Compile, mode: str | None) -> None:
    asked: list[str | None] = []

    class Network(nn.Linear):
        def compile(self, *, mode: str | None) -> None:  # type: ignore[override]
            asked.append(mode)

    compile_network(Network(1, 1), how)
    assert asked == [mode]
