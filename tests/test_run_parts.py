"""What a run is put together from: roles, other people's weights, observers and trackers."""

import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_runs import OBSERVERS, PLUGIN, content, finished, install, metrics, refused, resumed, train
from tiny import TINY_DDGAN, TINY_DDPM
from torch import nn

import toolkit
from toolkit.recipe import read_recipe
from toolkit.registry.modes import unchanged_modes
from toolkit.training.build import build, settled
from toolkit.training.ema import EMA, EMAOptions

Write = Callable[..., Path]
TEACHER = TINY_DDPM.replace('type = "denoising"', 'type = "taught"') + TINY_DDPM[
    TINY_DDPM.index("[networks.denoiser]") : TINY_DDPM.index("[optimizers.denoiser]")
].replace("denoiser", "teacher")


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Write, runs: Path) -> Path:
    """A recipe with a denoiser that imitates a teacher, whose weights lie in ./teacher."""
    install(monkeypatch, tmp_path, "brittle", PLUGIN)
    shutil.copytree(runs / "ddpm", "teacher")
    return write(TEACHER, "taught.toml")


def test_a_role_that_is_missing_is_named(write: Write) -> None:
    text = TINY_DDGAN.replace("networks.discriminator", "networks.critic")
    assert "there is no role 'critic': objective 'ddgan' has 'denoiser', 'discriminator'." in refused(
        train(write(text))
    )


def test_a_trained_role_without_an_optimizer_is_named(write: Write) -> None:
    start = TINY_DDGAN.index("[optimizers.discriminator]")
    text = TINY_DDGAN[:start] + TINY_DDGAN[TINY_DDGAN.index("[ema.denoiser]") :]
    assert "trains 'discriminator', but there is no [optimizers.discriminator]." in refused(
        train(write(text))
    )


def test_a_role_that_is_not_trained_has_no_average(taught: Path) -> None:
    error = refused(train(taught, "ema.teacher={decay=0.9}"))
    assert "there is no role 'teacher': objective 'taught' trains 'denoiser'." in error


def test_a_network_of_another_interface_is_refused(write: Write) -> None:
    text = TINY_DDPM.replace(
        'type = "unet"', 'type = "ddgan_small_discriminator"\nchannels = 4\ntime_width = 8'
    )
    start, end = text.index("block_out_channels"), text.index("[optimizers.denoiser]")
    error = refused(train(write(text[:start] + text[end:])))
    assert "but the objective wants a Denoiser here." in error


def test_compiling_is_refused_where_a_turn_differentiates_twice(write: Write) -> None:
    error = refused(train(write(TINY_DDGAN), "networks.discriminator.compile=true"))
    assert "compile is not possible: turn 'discriminator' differentiates twice" in error


def test_what_suits_the_device_is_chosen_and_recorded(runs: Path) -> None:
    recipe = tomllib.loads((runs / "ddpm/recipe.toml").read_text())
    assert recipe["run"]["precision"] == "float32"
    assert recipe["networks"]["denoiser"]["channels_last"] is False
    computes = json.loads((runs / "ddpm/environment.json").read_text())["computes"]
    assert computes == {
        "device": "cpu", "precision": "float32", "data": "in memory (cpu)", "channels_last": [],
        "compiled": [], "checkpointed": [], "fused_optimizers": ["denoiser"], "sharding": None,
    }  # fmt: skip


def test_channels_last_is_chosen_for_a_compiled_network_on_a_gpu_unless_the_recipe_says(write: Write) -> None:
    def chosen(*overrides: str, device: str = "cuda") -> object:
        recipe = settled(read_recipe(write(TINY_DDGAN), overrides), torch.device(device))
        return {role: table["channels_last"] for role, table in recipe.tables["networks"].items()}

    compiled = "networks.denoiser.compile=true"
    assert chosen() == {"denoiser": False, "discriminator": False}
    assert chosen(compiled) == {"denoiser": True, "discriminator": False}
    assert chosen(compiled, device="cpu") == {"denoiser": False, "discriminator": False}
    assert chosen(compiled, "networks.denoiser.channels_last=false") == chosen()
    assert chosen("networks.discriminator.channels_last=true") == {"denoiser": False, "discriminator": True}


def test_a_run_goes_on_in_another_memory_order_but_not_in_another_precision(write: Write, runs: Path) -> None:
    shutil.copytree(runs / "ddpm", "run")
    stored = Path("run/recipe.toml")
    elsewhere = stored.read_text().replace("channels_last = false", "channels_last = true")
    stored.write_text(elsewhere.replace("tf32 = true", "tf32 = false"))
    resumed(write(), "run.out=run", "run.steps=5")
    stored.write_text(elsewhere.replace('precision = "float32"', 'precision = "bf16"'))
    error = refused(train(write(), "run.out=run", "run.steps=9", flags=("--resume",)))
    assert "run.precision was 'bf16' and is 'float32'" in error


def test_switches_for_gpus_change_nothing_on_a_cpu(write: Write, runs: Path) -> None:
    finished(write(), "run.out=off", "run.tf32=false", "run.cudnn_benchmark=false")
    unet = Path("pipeline/unet/diffusion_pytorch_model.safetensors")
    assert (Path("off") / unet).read_bytes() == (runs / "ddpm" / unet).read_bytes()


@pytest.mark.parametrize(("source", "weights"), [
    ("runs/a", None), ("runs/a/pipeline", None), ("runs/a/checkpoints/step-0000004", None), ("runs/a", "raw"),
    ("runs/a/checkpoints/step-0000004", "raw"), ("killed", None), ("killed", "raw"), ("foreign", None),
])  # fmt: skip
def test_all_that_is_sampled_can_be_started_from(
    write: Write, runs: Path, source: str, weights: str | None
) -> None:
    shutil.copytree(runs / "ddpm", "runs/a")
    shutil.copytree("runs/a", "killed", ignore=shutil.ignore_patterns("pipeline"))
    shutil.copytree("runs/a/pipeline", "foreign", ignore=shutil.ignore_patterns("pipeline.json", "README.md"))
    chosen = [] if weights is None else [f"networks.denoiser.init_weights={weights}"]
    recipe = read_recipe(write(), [f"networks.denoiser.init_from={source}", *chosen])
    started = build(recipe, torch.device("cpu")).training.networks["denoiser"].state_dict()
    kind = "networks" if weights == "raw" else "ema"
    expected = load_file(f"runs/a/checkpoints/step-0000004/{kind}/denoiser.safetensors")
    sampled = toolkit.load(source, weights=weights).denoiser.state_dict()
    for name, tensor in started.items():
        assert torch.equal(tensor, expected[name]) and torch.equal(sampled[name], expected[name])


@pytest.mark.parametrize(("source", "reason"), [
    ("runs/nothing/at/all", "no such folder"),
    ("google/nothing", "is no folder here, and the Hub does not have it or cannot be reached"),
    (".", "no pipeline here"),
])  # fmt: skip
def test_init_from_what_is_not_there_says_what_is_missing(write: Write, source: str, reason: str) -> None:
    error = refused(train(write(), f"networks.denoiser.init_from={source}"))
    assert "init_from: " in error and reason in error


def test_init_from_another_architecture_is_refused(write: Write, runs: Path) -> None:
    wider = "networks.denoiser.block_out_channels=[8, 16]"
    error = refused(train(write(), f"networks.denoiser.init_from={runs / 'ddpm'}", wider))
    assert "init_from: " in error and "is of another architecture" in error


def test_a_teacher_is_neither_trained_nor_saved(taught: Path) -> None:
    finished(taught, "networks.teacher.init_from=teacher", "run.out=pupil")
    assert not [name for name in content(Path("pupil/checkpoints")) if "teacher" in name]


def test_a_run_goes_on_with_its_teacher(taught: Path) -> None:
    finished(taught, "networks.teacher.init_from=teacher", "run.out=pupil", "run.steps=2")
    resumed(taught, "networks.teacher.init_from=teacher", "run.out=pupil")
    assert metrics(Path("pupil"))[-1]["step"] == 4


def test_a_run_does_not_go_on_with_another_teacher(taught: Path, write: Write) -> None:
    finished(taught, "networks.teacher.init_from=teacher", "run.out=pupil", "run.steps=2")
    finished(write(), "run.out=teacher", "run.seed=1", flags=("--overwrite",))
    again = ("networks.teacher.init_from=teacher", "run.out=pupil")
    error = refused(train(taught, *again, flags=("--resume",)))
    assert "network 'teacher', which is not trained, has other weights now" in error


def test_from_run_takes_architecture_and_weights(taught: Path, write: Write) -> None:
    """The same teacher in one line, and the same run to the bit, after a stop too."""
    start = TEACHER.index("[networks.teacher]")
    line = '[networks.teacher]\nfrom_run = "teacher"\n'
    one_line = write(TEACHER[:start] + line, "one_line.toml")
    finished(taught, "networks.teacher.init_from=teacher", "run.out=spelled_out")
    finished(one_line, "run.out=pupil", "run.steps=2")
    resumed(one_line, "run.out=pupil")
    weights = Path("pipeline/unet/diffusion_pytorch_model.safetensors")
    assert (Path("pupil") / weights).read_bytes() == (Path("spelled_out") / weights).read_bytes()
    assert not [name for name in content(Path("pupil/checkpoints")) if "teacher" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("networks.teacher.norm_num_groups=2", "has norm_num_groups = 4, and it cannot be another"),
        ("networks.teacher.prediction=x0", "has prediction = epsilon, and it cannot be another"),
        ("networks.teacher.block_out_chanels=2", "has no option 'block_out_chanels'"),
        ("networks.teacher.init_from=teacher", "brings its weights: leave 'init_from' out"),
        ("networks.teacher.from_run=techer", "techer: no such folder"),
        ("schedule.beta_end=0.2", "was trained on another [schedule], with beta_end = 0.3"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(taught: Path, write: Write, change: str, message: str) -> None:
    line = '[networks.teacher]\nfrom_run = "teacher"\n'
    recipe = write(TEACHER[: TEACHER.index("[networks.teacher]")] + line, "one_line.toml")
    assert message in refused(train(recipe, change))


def test_observers_see_the_run_from_start_to_end(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = install(monkeypatch, tmp_path, "watcher", OBSERVERS)
    finished(write(), "checkpoints.every=2")
    expected = ["started", "step 2", "step-0000002", "step 4", "step-0000004", "ended"]
    assert sys.modules[module].seen == expected


def test_observers_hear_of_the_end_of_a_run_that_fails(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "brittle", PLUGIN)
    module = install(monkeypatch, tmp_path, "watcher", OBSERVERS)
    refused(train(write(), 'objective={type="brittle", at=0}'))
    assert sys.modules[module].seen == ["started", "ended"]


LEAVES_MODES = """
import os, sys, torch
from toolkit import hookimpl
entered = [torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16)]
@hookimpl
def toolkit_step_done(step):
    torch.set_grad_enabled(False)
    for mode in entered:
        mode.__enter__()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    os.chdir("/")
    sys.exit(3)
"""


def test_what_an_observer_changes_for_all_of_torch_changes_no_training(
    write: Write, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its sys.exit end the run."""
    install(monkeypatch, tmp_path, "careless", LEAVES_MODES)
    result = finished(write(name="ddpm.toml"))
    assert "toolkit_step_done: SystemExit: 3" in result.output
    learned = content(tmp_path / "runs/ddpm/checkpoints/step-0000004")
    assert learned == content(runs / "ddpm/checkpoints/step-0000004")


def test_a_working_directory_that_is_gone_stops_no_observer(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    with unchanged_modes():
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == torch.float32


def test_an_observer_that_fails_is_named_and_stops_neither_the_run_nor_other_observers(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = OBSERVERS.replace('seen.append("started")', 'raise KeyError("[run]")')
    modules = {}
    for name, source in (("a_wrong", wrong), ("watcher", OBSERVERS), ("z_wrong", wrong)):
        modules[name] = install(monkeypatch, tmp_path, name, source)
    result = finished(write())
    for name in ("a_wrong", "z_wrong"):
        assert f"plugin '{name}' ({name} 1.0): toolkit_run_started: KeyError: '[run]'" in result.output
    assert sys.modules[modules["watcher"]].seen[0] == "started"


@pytest.mark.slow
def test_tensorboard_has_losses_rates_samples_and_the_recipe_in_the_run_folder(
    write: Write, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "runs" / "tiny"
    said = finished(write(), "trackers.names=tensorboard", "samples.every=2").output
    assert "tensorboard --logdir runs/tiny/trackers" in said
    events = EventAccumulator(str(run / "trackers" / "toolkit")).Reload()
    for name in ("denoiser/loss", "denoiser/lr"):
        told = [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]
        assert [(r["step"], r[name]) for r in metrics(run) if name in r] == told
    for name, ending in (("samples", ""), ("samples-ema", "-ema")):
        shown = events.Images(name)
        assert [image.step for image in shown] == [2, 4]
        with Image.open(run / "samples" / f"step-0000004{ending}.png") as drawn:
            tracked = Image.open(io.BytesIO(shown[-1].encoded_image_string))
            assert tracked.tobytes() == drawn.convert("RGB").tobytes()
    (parameters,) = (run / "trackers").rglob("hparams.yml")
    assert "optimizers.denoiser.lr: '0.001'" in parameters.read_text()


def test_a_run_with_trackers_stays_one_after_a_kill_at_its_start(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    names = 'trackers.names=["tensorboard"]'
    finished(write(), names)
    run = tmp_path / "runs" / "tiny"
    (run / "recipe.toml").unlink()  # only names tell that it is a run's
    finished(write(), names)


WANDB = """
import json, numpy
def note(what, values, step=None):
    with open("noted.jsonl", "a") as file:
        file.write(json.dumps([what, values, step], default=str) + "\\n")
class Image:
    def __init__(self, picture):
        self.shape = numpy.asarray(picture).shape
    def __str__(self):
        return str(self.shape)
class config:
    @staticmethod
    def update(values, allow_val_change):
        note("config", values)
class Run:
    def log(self, values, step=None):
        note("log", values, step)
    def finish(self):
        note("finish", {})
def init(project):
    note("init", project)
    return Run()
"""


@pytest.mark.slow
def test_another_tracker_gets_the_same(write: Write, tmp_path: Path) -> None:
    """By a package of W&B's name, in a process of its own: Accelerate looks once for what is installed."""
    (tmp_path / "wandb.py").write_text(WANDB)
    (tmp_path / "wandb-1.0.dist-info").mkdir()
    (tmp_path / "wandb-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: wandb\nVersion: 1\n"
    )
    command = [sys.executable, "-m", "toolkit", "train", str(write()), "--set", "trackers.names=wandb"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    noted = [json.loads(line) for line in Path("noted.jsonl").read_text().splitlines()]
    assert [what for what, *_ in noted if what != "log"] == ["init", "config", "finish"]
    assert noted[1][1]["run.steps"] == "4"
    logs = [(values, step) for what, values, step in noted if what == "log"]
    assert [step for values, step in logs if "denoiser/lr" in values] == [2, 4]
    shown = {name: (values[name], step) for values, step in logs for name in values if "samples" in name}
    assert shown.keys() == {"samples", "samples-ema"}
    assert all(step == 4 and pictures[0].endswith("3)") for pictures, step in shown.values())


def test_the_names_of_trackers_are_listed_where_one_is_wrong(write: Write) -> None:
    error = refused(train(write(), "trackers.names=tensorbord"))
    assert 'one of "tensorboard", "wandb", "trackio", "mlflow", or a list of them' in error
    assert error.endswith("Did you mean 'tensorboard'?")
    assert "Did you mean 'wandb'?" in refused(train(write(), 'trackers.names=["mlflow", "wandbb"]'))


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(write: Write, tmp_path: Path, name: str) -> None:
    import importlib.util

    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    error = refused(train(write(), f'trackers.names=["{name}"]'))
    assert (
        error == f"error: [trackers] names has '{name}', but its package is not installed: pip install {name}"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["samples.num_inference_steps", "sampler.num_inference_steps"])
def test_a_sampler_that_refuses_its_options_does_so_before_training(write: Write, option: str) -> None:
    assert "num_inference_steps must be from 1 to 20" in refused(train(write(), f"{option}=50"))
    assert not Path("runs/tiny/metrics.jsonl").exists()


FLOATS = '''
import torch
from PIL import Image
from toolkit import DataSource, Start, hookimpl

class Floats(DataSource):
    """Numbers of the shape of a picture, in a range of their own.

    Args:
        channels: of each.
    """
    num_classes = None

    def __init__(self, channels: int) -> None:
        self.image_shape = (channels, 8, 8)

    def __len__(self):
        return 16

    def read(self, indices):
        return 5 + indices.view(-1, 1, 1, 1).expand(-1, *self.image_shape).float(), None

class Lost(Start):
    """Not finite."""
    time = 19
    def draw(self, shape, generators, t, device):
        return torch.full(tuple(shape), float("inf"), device=device)

@hookimpl
def toolkit_components(registry):
    registry.add(DataSource, "floats", Floats)
    registry.add(Start, "lost", Lost)
'''


def test_numbers_that_are_no_pictures_stay_numbers(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, "floats", FLOATS)
    output = finished(write(), "data.type=floats", "data.channels=3", "run.out=numbers").output
    assert json.loads(Path("numbers/pipeline/pipeline.json").read_text())["pictures"] is False
    assert sorted({path.suffix for path in Path("numbers/samples").iterdir()}) == [".npy"]
    assert "images.shape" in output and "save(" not in output
    output = finished(write(), "run.out=pictures").output
    assert "66% of the average of 'denoiser' are still its first weights" in output
    assert 'images[0].save("one.png")' in output
    assert "pictures" not in json.loads(Path("pictures/pipeline/pipeline.json").read_text())


def test_samples_that_are_not_finite_make_no_grid_and_stop_no_run(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, "floats", FLOATS)
    output = finished(write(), "start.type=lost", "samples.every=2", "run.out=lost").output
    assert "samples of step 2 are not finite: there is no grid of them" in output
    assert "samples of step 4-ema are not finite" in output
    assert not list(Path("lost").glob("samples/*")) and Path("lost/pipeline/pipeline.json").exists()


@pytest.mark.parametrize(("ramp", "share"), [(False, 0.9**3), (True, 0)])
def test_an_average_knows_what_it_still_has_of_its_first_weights(ramp: bool, share: float) -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    ema = EMA(network, EMAOptions(0.9, ramp=ramp))
    nn.init.zeros_(network.weight)
    for _ in range(3):
        ema.update(network)
    assert ema.initial_share() == pytest.approx(share)
    assert ramp or float(ema.network.weight) == pytest.approx(share)
