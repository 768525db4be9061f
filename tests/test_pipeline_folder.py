"""Saved pipelines: the round trip, damage, and what is uploaded."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import toolkit
from toolkit import Denoiser, Pipeline, PluginError, Prediction, ToolkitError
from toolkit.errors import CheckpointError, RunError
from toolkit.pipeline.folder import Saved
from toolkit.registry import load as plugins


def images(pipeline: Pipeline) -> torch.Tensor:
    return torch.cat(list(pipeline.sample(3, seed=1)))


def refusal(path: Path | str, kind: type[ToolkitError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        toolkit.load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def saved(runs: Path, tmp_path: Path) -> Path:
    """A DDGAN pipeline, all of whose weights are in weights.safetensors, to be damaged."""
    return Path(shutil.copytree(runs / "ddgan" / "pipeline", tmp_path / "pipeline"))


@pytest.fixture
def edit(saved: Path) -> Callable[[Callable[[Any], object]], None]:
    def change(how: Callable[[Any], object]) -> None:
        stated = json.loads((saved / "pipeline.json").read_text())
        how(stated)
        (saved / "pipeline.json").write_text(json.dumps(stated))

    return change


@pytest.mark.parametrize("name", ["ddpm", "ddgan"])
def test_a_pipeline_that_is_saved_and_loaded_samples_the_same_bits(runs: Path, name: str) -> None:
    pipeline = toolkit.load(runs / name)
    pipeline.save_pretrained("copy")
    copy = toolkit.load("copy")
    assert copy.saved == pipeline.saved
    assert torch.equal(images(copy), images(pipeline))


def test_another_sampler_is_saved_along(runs: Path) -> None:
    toolkit.load(runs / "ddpm").with_sampler("ddim", num_inference_steps=5, eta=0.5).save_pretrained("copy")
    sampler = toolkit.load("copy").saved.tables["sampler"]
    assert (sampler["type"], sampler["num_inference_steps"], sampler["eta"]) == ("ddim", 5, 0.5)


def test_every_option_of_the_sampler_is_stated_and_read_again(runs: Path) -> None:
    stated = {"num_inference_steps": [5, 2], "spacing": "strided", "variance": "fixed_large", "clip": True}
    pipeline = toolkit.load(runs / "ddpm").with_sampler("ancestral", **stated)
    pipeline.save_pretrained("copy")
    assert json.loads(Path("copy/pipeline.json").read_text())["sampler"] == {"type": "ancestral", **stated}
    assert torch.equal(images(toolkit.load("copy")), images(pipeline))


def test_defaults_of_a_sampler_are_stated_too(runs: Path) -> None:
    toolkit.load(runs / "ddpm").with_sampler("ddim", num_inference_steps=5).save_pretrained("copy")
    assert json.loads(Path("copy/pipeline.json").read_text())["sampler"] == {
        "type": "ddim", "num_inference_steps": 5, "spacing": None, "eta": 0.0, "clip": False,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ddpm", "ddgan"])
def test_a_run_folder_is_loaded_as_its_pipeline(runs: Path, name: str) -> None:
    assert torch.equal(images(toolkit.load(runs / name)), images(toolkit.load(str(runs / name / "pipeline"))))


def test_a_run_saves_the_averaged_weights(runs: Path) -> None:
    (checkpoint,) = (runs / "ddgan" / "checkpoints").iterdir()
    average = load_file(checkpoint / "ema" / "denoiser.safetensors")
    state = toolkit.load(runs / "ddgan").denoiser.state_dict()
    assert all(torch.equal(state[key], average[key]) for key in state)


def test_saving_replaces_an_earlier_pipeline_as_a_whole(runs: Path) -> None:
    toolkit.load(runs / "ddpm").save_pretrained("copy")
    toolkit.load(runs / "ddgan").save_pretrained("copy")
    written = ["README.md", "pipeline.json", "weights.safetensors"]
    assert sorted(path.name for path in Path("copy").iterdir()) == written


def test_saving_never_replaces_a_folder_with_other_files(runs: Path) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter1.tex").write_text("years of work")
    with pytest.raises(RunError, match="holds other files .chapter1.tex."):
        toolkit.load(runs / "ddgan").save_pretrained("thesis")
    assert Path("thesis/chapter1.tex").read_text() == "years of work"


def test_a_folder_that_is_missing_or_has_no_pipeline_is_said_to_be_so(tmp_path: Path) -> None:
    assert refusal("nowhere") == "nowhere: no such folder"
    assert refusal(tmp_path) == (
        f"{tmp_path}: no pipeline here: neither pipeline.json nor model_index.json, also not in pipeline/"
    )


def test_a_hub_id_that_cannot_be_had_is_one_clear_line() -> None:
    message = refusal("google/ddpm-cifar10-32")
    assert message == (
        "google/ddpm-cifar10-32: is no folder here, and the Hub does not have it or cannot be reached"
    )


@pytest.mark.parametrize(("text", "named"), [
    ('{"format": 1,', "cannot be read"),
    ("[]", "is not a JSON object"),
    ('{"format": 2, "toolkit": "9.0"}', "is of format 2, of toolkit 9.0; this is "),
    ('{"format": 1}', "sample_shape: Field required"),
    ('{"format": 1, "sample_shape": [1, 8, 8], "num_classes": null, "network": {}}', "plugins"),
])  # fmt: skip
def test_a_damaged_description_is_refused(saved: Path, text: str, named: str) -> None:
    (saved / "pipeline.json").write_text(text)
    message = refusal(saved)
    assert "pipeline.json" in message and named in message


def test_a_missing_part_of_the_description_is_named(saved: Path, edit: Callable[..., None]) -> None:
    edit(lambda stated: stated.pop("sampler"))
    assert "pipeline.json: is damaged, or of another version: sampler: " in refusal(saved)


def test_a_missing_plugin_is_named_with_its_distribution(saved: Path, edit: Callable[..., None]) -> None:
    edit(lambda stated: stated["plugins"].update(sparkle="toolkit-sparkle 0.3"))
    assert "needs plugin 'sparkle' of toolkit-sparkle 0.3, which is not installed" in refusal(
        saved, PluginError
    )


def test_an_unknown_component_is_named_with_the_nearest(saved: Path, edit: Callable[..., None]) -> None:
    edit(lambda stated: stated["network"].update(type="ddgan_light_generater"))
    message = refusal(saved, ToolkitError)
    assert "[network.type]" in message and "Did you mean 'ddgan_light_generator'?" in message


def test_an_unknown_option_of_a_component_is_named(saved: Path, edit: Callable[..., None]) -> None:
    edit(lambda stated: stated["network"].update(latent_widht=4))
    message = refusal(saved, ToolkitError)
    assert "pipeline.json: [network.latent_widht]" in message and "Did you mean 'latent_width'?" in message


def test_missing_extra_and_misshapen_weights_are_named(saved: Path) -> None:
    path = saved / "weights.safetensors"
    state = load_file(path)
    name = next(key for key, tensor in state.items() if tensor.ndim == 4)
    for altered, expected in (
        ({k: t for k, t in state.items() if k != name}, f"it lacks {name!r}"),
        ({**state, "stranger": torch.ones(1)}, "it has 'stranger', which is unknown here"),
        ({**state, name: state[name][:1].clone()}, f"{name!r} has shape (1, "),
    ):
        save_file(altered, path)
        assert expected in refusal(saved)


def test_truncated_and_absent_weights_are_refused(saved: Path) -> None:
    path = saved / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert f"{path}: cannot be read" in refusal(saved)
    path.unlink()
    assert f"{path}: cannot be read" in refusal(saved)


def test_nothing_in_the_folder_is_executed(saved: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",)

    for name in ("pipeline.py", "toolkit_ddgan.py", "__init__.py", "network.py"):
        (saved / name).write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    for name in ("weights.bin", "diffusion_pytorch_model.bin", "weights.pt", "weights.pkl"):
        (saved / name).write_bytes(pickle.dumps(Trap()))
    toolkit.load(saved)
    assert not (tmp_path / "sprung").exists()


def test_a_component_that_no_installed_plugin_has_is_refused_on_loading() -> None:
    class Still(Denoiser):
        def __init__(self, schedule: toolkit.NoiseSchedule) -> None:
            super().__init__()
            self.schedule = schedule
            self.register_buffer("b", torch.zeros(1))

        def forward(self, x_t, t, *, s=None, label=None, latent=None):  # type: ignore[no-untyped-def]
            return Prediction(self.schedule, x_t, t, x0=torch.zeros_like(x_t))

    registry = plugins.load().registry.copy()
    registry.add(Denoiser, "still", Still)
    tables = {
        "schedule": {"type": "linear", "num_train_timesteps": 4, "beta_start": 0.1, "beta_end": 0.5},
        "network": {"type": "still"}, "sampler": {"type": "ancestral"}, "start": {"type": "noise"},
    }  # fmt: skip
    Pipeline.from_saved(
        Saved(sample_shape=(2,), num_classes=None, **tables), registry, "here"
    ).save_pretrained("still")
    assert "'still' is not installed" in refusal("still", ToolkitError)
