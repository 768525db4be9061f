"""Runs through the command line: saved pipelines, and several processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from gan_runs import TINY, TINY_DIFFUSION, TINY_PROGRESSIVE, all_runs, train
from PIL import Image
from safetensors.torch import load_file

from toolkit import Batch, Loss, Pipeline, RecipeError, Step, Turn, load
from toolkit.cli import main
from toolkit.randomness import generators_for

pytestmark = pytest.mark.slow  # runs, by the dozen

METHODS = pytest.mark.parametrize("method", TINY)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all recipes at one process, 8 rows in micro-batches of 4."""
    folder = tmp_path_factory.mktemp("gans")
    for name, text in {**TINY, "progressive": TINY_PROGRESSIVE, "diffusion": TINY_DIFFUSION}.items():
        (folder / f"{name}.toml").write_text(text)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as launchers set it: sums of floats may differ between numbers of threads
    all_runs(folder, "one")
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def both(runs: Path) -> Path:
    """The same runs, and those of two processes."""
    command = [sys.executable, str(Path(__file__).with_name("gan_runs.py")), str(runs), "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return runs


@pytest.fixture
def run(runs: Path, method: str) -> Path:
    return runs / "one" / method


def statistics(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if "running" in name}


@METHODS
def test_a_saved_pipeline_samples_the_bits_of_the_networks_average(run: Path, tmp_path: Path) -> None:
    pipeline, state = load(run), load_file(run / "pipeline" / "weights.safetensors")
    average = load_file(run / "checkpoints" / "step-0000006" / "ema" / "generator.safetensors")
    assert statistics(state) and all(torch.equal(state[name], average[name]) for name in average)
    images = pipeline.draw(generators_for(0, 0, 4, torch.device("cpu")), 4)
    assert not torch.allclose(images[0], images[1])
    pipeline.save_pretrained(tmp_path / "again")
    again = Pipeline.from_pretrained(tmp_path / "again")
    assert torch.equal(again.draw(generators_for(0, 0, 4, torch.device("cpu")), 4), images)


@METHODS
def test_sampling_is_one_call_of_the_generator_with_its_running_statistics(run: Path) -> None:
    pipeline, z = load(run), torch.randn(3, 4)
    before = {name: t.clone() for name, t in pipeline.denoiser.state_dict().items()}
    drawn = pipeline(3, latents=[z], output_type="pt").images
    with torch.no_grad():
        expected = pipeline.denoiser.eval().images(z)
    assert pipeline.calls == 1 and torch.equal(drawn, expected.clamp(-1, 1) / 2 + 0.5)
    alone = pipeline(1, latents=[z[:1]], output_type="pt").images  # no batch statistics, so no company
    assert torch.allclose(drawn[:1], alone, atol=1e-6)
    assert all(torch.equal(t, before[name]) for name, t in pipeline.denoiser.state_dict().items())


@METHODS
def test_other_samplers_and_the_command_line_take_it_as_any_other_pipeline(run: Path, tmp_path: Path) -> None:
    command = ["sample", str(run), "--num", "4", "--out", str(tmp_path / "grid.png")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0 and (tmp_path / "grid.png").is_file(), done.output
    pipeline, z = load(run), torch.randn(2, 4)
    ddim = pipeline.with_sampler("ddim")(2, latents=[z], output_type="pt").images
    assert torch.equal(ddim, pipeline(2, latents=[z], output_type="pt").images)
    with pytest.raises(RecipeError, match="must be from 1 to 1"):
        pipeline(1, num_inference_steps=2)


def test_the_average_of_batch_statistics_follows_that_of_the_weights(runs: Path, tmp_path: Path) -> None:
    """Halfway between those before and after the step, at a decay of 1/2; counters are copied."""
    assert not train(runs / "dcgan.toml", f"run.out={tmp_path / 'run'}", "run.steps=1").exit_code
    checkpoint = tmp_path / "run" / "checkpoints" / "step-0000001"
    average = load_file(checkpoint / "ema" / "generator.safetensors")
    live = load_file(checkpoint / "networks" / "generator.safetensors")
    for name, mean in statistics(average).items():
        initial = 1.0 if name.endswith("var") else 0.0
        assert torch.allclose(mean, (live[name] + initial) / 2, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(average[n], live[n]) for n in live if n.endswith("num_batches_tracked"))


@METHODS
def test_records_tell_both_logits_the_penalty_and_the_held_out_loss(run: Path, method: str) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    penalty = {"sngan": "r1", "dcgan": "gp"}[method]
    logged = {"discriminator/real", "discriminator/fake", f"discriminator/{penalty}", "generator/fake"}
    assert logged <= set(records[0])
    assert {f"held_out/discriminator/{name}" for name in ("loss", "real", "fake")} <= set(records[-1])


def test_each_update_of_the_discriminator_sees_a_fresh_batch(
    monkeypatch: pytest.MonkeyPatch, runs: Path, tmp_path: Path
) -> None:
    """And the generator's turn that of the first; the next step goes on where the discriminator was."""
    from toolkit_gan.objective import GAN

    seen: list[int] = []
    turns = GAN.turns

    def noted(turn: Turn) -> Turn:
        def loss(batch: Batch, step: Step) -> Loss:
            seen.append(batch.position)
            return turn.loss(batch, step)

        return replace(turn, loss=loss)

    monkeypatch.setattr(GAN, "turns", lambda self: tuple(map(noted, turns(self))))
    stated = ("run.steps=2", "run.micro_batch_size=8", "samples.num=0", f"run.out={tmp_path / 'run'}")
    assert not train(runs / "sngan.toml", *stated).exit_code
    assert seen == [0, 8, 0, 16, 24, 16]


def test_an_image_size_that_dcgan_cannot_make_is_a_recipe_error(runs: Path, tmp_path: Path) -> None:
    for side in (12, 30):
        pictures = tmp_path / str(side)
        pictures.mkdir()
        Image.new("L", (side, side)).save(pictures / "one.png")
        data = ("data.type=folder", f"data.path={pictures}")
        result = train(runs / "dcgan.toml", *data, f"run.out={tmp_path / 'no'}")
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert "[networks.generator]" in result.output and f"{side}" in result.output


def networks(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of both networks at the last step, and those of the objective."""
    found = [*(folder / "checkpoints").glob("*/networks/*.safetensors")]
    found += (folder / "checkpoints").glob("*/objective.safetensors")
    return {f"{path.stem}.{name}": t for path in found for name, t in load_file(path).items()}


@pytest.mark.parametrize("name", [*TINY, "progressive", "diffusion"])
def test_networks_have_the_same_bits_for_any_number_of_processes(both: Path, name: str) -> None:
    """Running statistics, and the vectors of spectral norm, are the mean over those of all micro-batches."""
    one, two = (networks(both / count / name) for count in ("one", "two"))
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert name != "diffusion" or one["objective.augment.reach"] != 5  # it has moved
