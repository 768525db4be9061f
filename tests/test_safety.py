"""What comes from others executes nothing, and nothing is written but where it belongs.

Pipeline folders, checkpoints and recipes are what people pass on. What test_importer.py says of pickles,
test_pipeline_folder.py of a plugin that is missing, and test_pipeline_diffusers.py of pickled weights belongs
here too.
"""

import builtins
import json
import os
import pickle
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import content, refused, train

import toolkit
from toolkit import Chain, Outside, RecipeError, Registry, Start
from toolkit.cli import main
from toolkit.errors import CheckpointError, PluginError, ToolkitError
from toolkit.runs.folder import git_state

Write = Callable[..., Path]
Edit = Callable[..., None]


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "ddpm", tmp_path / "run"))


@pytest.fixture
def saved(run: Path) -> Path:
    return run / "pipeline"


@pytest.fixture
def edit(saved: Path) -> Edit:
    """Change what pipeline.json says."""

    def change(alter: Callable[[dict[str, Any]], object]) -> None:
        stated = json.loads((saved / "pipeline.json").read_text())
        alter(stated)
        (saved / "pipeline.json").write_text(json.dumps(stated))

    return change


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names that are imported from here on; whatever unpickles fails."""
    toolkit.load  # noqa: B018
    found: list[str] = []
    known = builtins.__import__

    def spy(name: str, *arguments: Any, **more: Any) -> Any:
        found.append(name)
        return known(name, *arguments, **more)

    def never(*arguments: object, **more: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(builtins, "__import__", spy)
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, never)
    yield found


def refusal(folder: Path | str, kind: type[ToolkitError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        toolkit.load(folder)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    return str(caught.value)


class Trap:
    """Unpickling it leaves a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("sprung").absolute(),)


# Loading a pipeline


@pytest.mark.slow
def test_loading_unpickles_nothing_and_imports_nothing_from_the_folder(
    saved: Path, imported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pipeline", "evil", "toolkit_evil"):
        (saved / f"{name}.py").write_text("raise SystemExit")
    for name in ("weights.bin", "weights.pt", "pytorch_model.bin", "unet/diffusion_pytorch_model.bin"):
        (saved / name).write_bytes(pickle.dumps(Trap()))
    monkeypatch.chdir(saved)  # the folder that Python looks in first, too
    pipeline = toolkit.load(".")
    assert pipeline.draw(None, 1).shape == (1, 1, 8, 8)
    assert {name.partition(".")[0] for name in imported}.isdisjoint({"pipeline", "evil", "toolkit_evil"})
    assert not Path("sprung").exists()


@pytest.mark.parametrize("ending", ["bin", "pt", "ckpt", "pkl"])
def test_pickled_weights_do_not_stand_in_for_safetensors(
    saved: Path, imported: list[str], ending: str
) -> None:
    pickled = pickle.dumps(Trap())
    (saved / "weights.safetensors").rename(saved / f"weights.{ending}")
    (saved / f"weights.{ending}").write_bytes(pickled)
    assert "weights.safetensors: cannot be read" in refusal(saved)
    (saved / "weights.safetensors").write_bytes(pickled)
    assert "weights.safetensors: cannot be read" in refusal(saved)
    assert not Path("sprung").exists()


@pytest.mark.parametrize("kind", ["network", "sampler", "schedule", "start"])
@pytest.mark.parametrize("name", ["os.system", "subprocess:run", "evil", "../evil", "torch.nn.Linear"])
def test_a_component_that_no_plugin_registered_is_refused_by_name(
    saved: Path, edit: Edit, imported: list[str], kind: str, name: str
) -> None:
    Path("evil.py").write_text("raise SystemExit")
    edit(lambda stated: stated[kind].update(type=name))
    assert f"'{name}' is not installed" in refusal(saved, ToolkitError)
    assert "evil" not in imported


def test_a_plugin_that_is_stated_is_not_imported_by_its_name(
    saved: Path, edit: Edit, imported: list[str]
) -> None:
    Path("evil.py").write_text("raise SystemExit")
    edit(lambda stated: stated["plugins"].update(evil="evil 1.0"))
    assert "needs plugin 'evil' of evil 1.0" in refusal(saved, PluginError)
    assert "evil" not in imported


@pytest.mark.parametrize(("part", "module"), [
    ("scheduler", ["evil", "Scheduler"]),
    ("scheduler", ["diffusers", "VQDiffusionScheduler"]),
    ("unet", ["evil", "UNet2DModel"]),
    ("custom_pipeline", "someone/evil"),
    ("safety_checker", ["evil", "Checker"]),
    ("_class_name", ["evil", "DDPMPipeline"]),
])  # fmt: skip
def test_a_foreign_folder_that_names_other_classes_is_refused_by_name(
    saved: Path, imported: list[str], part: str, module: object
) -> None:
    (saved / "pipeline.json").unlink()
    for place in (saved, saved / "unet", saved / "scheduler"):
        (place / "evil.py").write_text("raise SystemExit")
    index = json.loads((saved / "model_index.json").read_text()) | {part: module}
    (saved / "model_index.json").write_text(json.dumps(index))
    message = refusal(saved)
    names = [module] if isinstance(module, str) else module
    assert all(name in message for name in names if name != "diffusers")  # type: ignore[attr-defined]
    assert "evil" not in imported


ABSURD = {
    "[" * 200_000: "nested too deep",
    '{"a":' * 200_000: "nested too deep",
    "1" * 10_000: "cannot be read",
    "[]": "is not a JSON object",
    "\udcff": "cannot be read",
}


@pytest.mark.parametrize(("name", "text", "reason"), [
    *((name, *absurd) for name in ("pipeline.json", "model_index.json") for absurd in ABSURD.items()),
    ("pipeline.json", '{"format": 1, "format": 2}', "is of format 2"),
    ("model_index.json", '{"_class_name": "DDPMPipeline", "_class_name": "Evil"}', "is a Evil with unet"),
], ids=lambda text: text[:30])  # fmt: skip
def test_absurd_json_is_refused_with_the_name_of_the_file(
    saved: Path, name: str, text: str, reason: str
) -> None:
    (saved / "pipeline.json").unlink()
    (saved / name).write_bytes(text.encode(errors="surrogateescape"))
    message = refusal(saved)
    assert name in message and reason in message


def header(stated: object, length: int | None = None, rest: bytes = b"") -> bytes:
    text = json.dumps(stated).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + rest


@pytest.mark.parametrize("absurd", [
    header({}, 2**63), header({}, 2**40), header({}, 0), b"", b"\0" * 7,
    header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, rest=b"\0" * 4),
    header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}}),
    header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, rest=b"\0" * 4),
    header({"a": {"dtype": "PY", "shape": [1], "data_offsets": [0, 4]}}, rest=b"\0" * 4),
    header({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, rest=b"\0"),
    header({"a": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, rest=b"\0"),
    header([[[[]]]]), b"\x10" + b"\0" * 7 + b"[" * 16,
], ids=lambda absurd: repr(absurd[:60]))  # fmt: skip
def test_absurd_safetensors_are_refused(saved: Path, absurd: bytes) -> None:
    (saved / "weights.safetensors").write_bytes(absurd)
    assert str(saved) in refusal(saved)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def changed(alter: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        state = load_file(file)
        name = min(state)
        save_file({**state, name: alter(state[name]).contiguous()}, file)

    return change


WEIGHT_FILES = ("weights.safetensors", "unet/diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("folder", ["run/pipeline", "run/checkpoints/step-0000004"])
def test_a_flipped_bit_among_the_weights_is_noticed(run: Path, folder: str) -> None:
    toolkit.load(folder)
    for file in sorted(Path(folder).rglob("*.safetensors")):
        if file.stat().st_size > 100:
            before = file.read_bytes()
            flipped(file)
            assert f"{file.relative_to(folder)} was altered, its checksum is not that in" in refusal(folder)
            file.write_bytes(before)


def test_a_file_of_weights_that_was_not_saved_is_refused(saved: Path) -> None:
    shutil.copy(saved / WEIGHT_FILES[0], saved / "more.safetensors")
    assert "more.safetensors was altered" in refusal(saved)
    (saved / "more.safetensors").rename(saved / "._more.safetensors")  # of the system
    toolkit.load(saved)


@pytest.mark.parametrize(("alter", "reason"), [
    (lambda tensor: tensor * float("nan"), "is not finite"),
    (lambda tensor: tensor + float("inf"), "is not finite"),
    (lambda tensor: tensor.to(torch.int8), "is of torch.int8 there and of torch.float32 here"),
    (lambda tensor: tensor.to(torch.bool), "is of torch.bool there"),
    (lambda tensor: tensor.to(torch.complex64), "is of torch.complex64 there"),
])  # fmt: skip
@pytest.mark.parametrize("foreign", [False, True])
def test_weights_that_are_no_weights_are_refused_though_digests_agree(
    saved: Path, edit: Edit, alter: Callable[[torch.Tensor], torch.Tensor], reason: str, foreign: bool
) -> None:
    file = saved / WEIGHT_FILES[1]
    changed(alter)(file)
    edit(lambda stated: stated["digests"].update({WEIGHT_FILES[1]: sha256(file.read_bytes()).hexdigest()}))
    if foreign:
        (saved / "pipeline.json").unlink()
    assert reason in refusal(saved)


@pytest.mark.parametrize("fault", [
    {"format": True}, {"format": 1.0}, {"format": "1"}, {"steps": "4"}, {"num_classes": True},
    {"steps": True},
    {"sample_shape": ["1", 8, 8]}, {"sample_shape": [1.0, 8, 8]}, {"sample_shape": [True, 8, 8]},
    {"role": "../x"}, {"role": 3}, {"weights": None}, {"digests": {}}, {"digests": None},
    {"digests": {"weights.safetensors": 3}}, {"plugins": {"ddpm": 1}}, {"class_names": [1]},
    {"image_shape": [8.5]}, {"recipe": []},
])  # fmt: skip
def test_a_description_of_other_types_is_refused(saved: Path, edit: Edit, fault: dict[str, Any]) -> None:
    edit(lambda stated: stated.update(fault))
    assert "pipeline" in refusal(saved)


def test_a_folder_of_an_earlier_version_says_what_it_lacks(saved: Path, edit: Edit) -> None:
    edit(lambda stated: stated.pop("digests"))
    assert "is damaged, or of another version: digests" in refusal(saved)


def test_a_link_in_a_folder_is_not_copied_as_its_card(saved: Path) -> None:
    Path("secret").write_text("my token")
    (saved / "README.md").unlink(missing_ok=True)
    (saved / "README.md").symlink_to(Path("secret").absolute())
    toolkit.load(saved).save_pretrained("again")
    toolkit.load("again").save_pretrained(saved)
    assert not any("my token" in file.read_text() for file in Path().rglob("README.md"))
    assert Path("secret").read_text() == "my token"


# Pipelines within a pipeline


@pytest.fixture
def started(saved: Path, edit: Edit) -> Callable[[str], None]:
    """Make the pipeline start at the samples of another."""

    def start(path: str) -> None:
        table = {"type": "surrogate", "t_mid": 3, "surrogate": path, "data": None, "handover": "full"}
        edit(lambda stated: stated.update(start=table))

    return start


@pytest.mark.parametrize("path", [
    ".", "", "..", "../other", "start/../../other", "/other", "a\0b", "x" * 5000, "start/link",
    "start/loop", "start/home", "~",
])  # fmt: skip
def test_an_inner_pipeline_lies_inside_or_is_refused(
    saved: Path, started: Callable[[str], None], imported: list[str], path: str
) -> None:
    """A saved folder is whole, so a path out of it is a mistake or worse; one to itself would never end."""
    other = Path(shutil.copytree(saved, saved.parent / "other"))
    (saved / "start").mkdir()
    (saved / "start" / "link").symlink_to(other)
    (saved / "start" / "loop").symlink_to(saved / "start" / "loop")
    (saved / "start" / "home").symlink_to(saved)
    started(str(other) if path == "/other" else path)
    message = refusal(saved, ToolkitError)
    if path == "~":  # a name like any other
        assert "no such folder" in message
    else:
        assert "pipeline.json: [start.surrogate] 'surrogate' must be a path" in message
        assert "which is not inside the saved folder" in message


def test_an_inner_pipeline_that_names_an_outer_one_is_refused(
    saved: Path, started: Callable[[str], None]
) -> None:
    started("..")
    inner = shutil.copytree(saved, saved.parent / "copy")
    started("start/surrogate")
    shutil.copytree(inner, saved / "start" / "surrogate")
    assert "start/surrogate/pipeline.json: [start.surrogate] " in refusal(saved, ToolkitError)


def test_examples_that_a_pipeline_starts_from_execute_no_script(
    saved: Path, edit: Edit, tmp_path: Path
) -> None:
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / "examples.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    (folder / "examples.pkl").write_bytes(pickle.dumps(Trap()))
    table = {"type": "surrogate", "t_mid": 3, "data": {"type": "datasets", "path": str(folder)}}
    edit(lambda stated: stated.update(start=table))
    refusal(saved, ToolkitError)
    assert not Path("sprung").exists()


def cautious(schedule: Chain, places: dict[str, list[Path]], mirror: Outside | None = None) -> Start:
    """A start whose paths lie deep in a value, and that may ask an address."""
    raise AssertionError("built")


@pytest.fixture
def opened_pictures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pictures that are opened from here on."""
    opened: list[Any] = []
    monkeypatch.setattr(Image, "open", lambda file, **more: opened.append(file))
    return opened


@pytest.mark.parametrize("data", [
    {"type": "folder", "path": "{pictures}"}, {"type": "folder", "path": "../../pictures"},
    {"type": "datasets", "path": "{pictures}"}, {"type": "datasets", "path": "ylecun/mnist"},
    {"type": "folder", "path": "start/link"},
])  # fmt: skip
def test_examples_that_a_pipeline_starts_from_are_not_read_from_elsewhere(
    saved: Path, edit: Edit, opened_pictures: list[Any], data: dict[str, str]
) -> None:
    pictures = Path("pictures").absolute()
    pictures.mkdir()
    (pictures / "mine.png").touch()
    (saved / "start").mkdir()
    (saved / "start" / "link").symlink_to(pictures)
    data = data | {"path": data["path"].format(pictures=pictures)}
    edit(lambda stated: stated.update(start={"type": "surrogate", "t_mid": 3, "data": data}))
    message = refusal(saved, ToolkitError)
    assert "[start.data.path] 'path' must be" in message and "not inside the saved folder" in message
    assert opened_pictures == []


@pytest.mark.parametrize("options", [
    {"places": {"a": ["pipeline.json", "/etc/passwd"]}}, {"places": {"a": [], "b": ["../x"]}},
    {"places": {}, "mirror": "https://example.org"},
])  # fmt: skip
def test_paths_and_addresses_are_confined_wherever_they_lie_in_a_value(
    options: dict[str, Any], tmp_path: Path
) -> None:
    registry = Registry()
    registry.add(Start, "cautious", cautious)
    table = {"type": "cautious", **options}
    with pytest.raises(RecipeError, match="not inside the saved folder"):
        registry.complete(Start, table, home=tmp_path)
    assert registry.complete(Start, table).plain["type"] == "cautious"  # a recipe's are the user's own
    inside = registry.complete(Start, {"type": "cautious", "places": {"a": ["x/y"]}}, home=tmp_path)
    assert inside.arguments["places"] == {"a": [tmp_path.resolve() / "x" / "y"]}


def test_examples_that_come_with_the_toolkit_may_be_started_from(saved: Path, edit: Edit) -> None:
    data = {"type": "digits"}
    edit(lambda stated: stated.update(start={"type": "surrogate", "t_mid": 3, "data": data}))
    pipeline = toolkit.load(saved)
    pipeline.save_pretrained("again")
    assert toolkit.load("again").draw(None, 1).shape == (1, 1, 8, 8)


def test_what_a_saved_folder_could_not_hold_is_refused_before_training(write: Write, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "mine.png")
    start = '[start]\ntype = "surrogate"\nt_mid = 3\n[start.data]\ntype = "folder"\npath = "."\n'
    error = refused(train(write(f"{write().read_text()}\n{start}")))
    assert "[start.data.path] 'path' must be" in error and "not inside the saved folder" in error
    assert not list(tmp_path.rglob("step-*"))


def test_saving_over_a_pipeline_leaves_alone_what_its_links_point_to(saved: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("years of work")
    pipeline = toolkit.load(saved)
    shutil.rmtree(saved / "scheduler")
    (saved / "scheduler").symlink_to(Path("mine").absolute())
    pipeline.save_pretrained(saved)
    assert not (saved / "scheduler").is_symlink()
    assert Path("mine/notes.txt").read_text() == "years of work"


# Checkpoints


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def restate(checkpoint: Path, **files: Callable[[Path], object]) -> None:
    """Alter files and have the manifest agree, as an adversary would."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name, alter in files.items():
        file = checkpoint / name.replace("__", "/").replace("_dot_", ".")
        alter(file)
        found = {"bytes": file.stat().st_size, "sha256": sha256(file.read_bytes()).hexdigest()}
        manifest[file.relative_to(checkpoint).as_posix()] = found
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def list_in_manifest(checkpoint: Path, name: str, holds: bytes) -> None:
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    stated = {"bytes": len(holds), "sha256": sha256(holds).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps({name: stated, **manifest}))


@pytest.mark.parametrize("name", ["../secret", "{run}/checkpoints/secret", "networks/../../secret", ".."])
def test_a_manifest_that_lists_what_is_outside_is_refused(run: Path, name: str) -> None:
    """Though the file is there, and is what the manifest says."""
    (run / "checkpoints" / "secret").write_bytes(b"secret")
    name = name.format(run=run)
    list_in_manifest(newest(run), name, b"secret")
    error = refused(train("run/recipe.toml", "run.out=run", "run.steps=6", flags=("--resume",)))
    assert f"manifest.json lists {name}, which is outside" in error


def test_a_manifest_that_lists_a_name_which_no_file_can_have_is_refused(run: Path) -> None:
    list_in_manifest(newest(run), "a\0b", b"secret")
    error = refused(train("run/recipe.toml", "run.out=run", "run.steps=6", flags=("--resume",)))
    assert "is missing" in error


def test_a_pickle_in_a_checkpoint_is_not_unpickled(run: Path) -> None:
    restate(newest(run), networks__denoiser_dot_safetensors=lambda f: f.write_bytes(pickle.dumps(Trap())))
    error = refused(train("run/recipe.toml", "run.out=run", "run.steps=6", flags=("--resume",)))
    assert "denoiser.safetensors: cannot be read" in error and not Path("sprung").exists()


@pytest.mark.parametrize("alter", [
    lambda stated: stated.pop("facts"),
    lambda stated: stated.update(facts=3),
    lambda stated: stated.pop("step"),
    lambda stated: stated.update(step=1),
    lambda stated: stated.update(ema_updates={}),
    lambda stated: stated.update(sums={"denoiser/loss": 3}),
    lambda stated: stated.pop("untrained"),
])  # fmt: skip
def test_a_checkpoint_whose_state_is_incomplete_is_refused_by_name(
    run: Path, alter: Callable[[dict[str, Any]], object]
) -> None:
    def change(file: Path) -> None:
        stated = json.loads(file.read_text())
        alter(stated)
        file.write_text(json.dumps(stated))

    restate(newest(run), state_dot_json=change)
    error = refused(train("run/recipe.toml", "run.out=run", "run.steps=6", flags=("--resume",)))
    assert "state.json" in error


def narrowed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor[:1].clone() if tensor.ndim else tensor for name, tensor in state.items()}


def without_a_moment(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name != "3.exp_avg_sq"}


@pytest.mark.parametrize(("alter", "reason"), [
    (lambda state: {f"x{name}": tensor for name, tensor in state.items()}, "x0, which is of no parameter"),
    (lambda state: {**state, "999.exp_avg": torch.zeros(8)}, "999, which is of no parameter"),
    (lambda state: {**state, "-1.exp_avg": torch.zeros(8)}, "-1, which is of no parameter"),
    (narrowed, "has shape"),
    (lambda state: {**state, "3.exp_avg": torch.zeros(())}, "'3.exp_avg' has shape () there"),
    (lambda state: {**state, "3.exp_avg": state["3.exp_avg"].half()}, "is of torch.float16 there"),
    (lambda state: {**state, "3.step": state["3.step"].long()}, "'3.step' is of torch.int64 there"),
    (without_a_moment, "it lacks '3.exp_avg_sq'"),
    (lambda state: {**state, "3.exp_avg_cube": torch.zeros(8)}, "'3.exp_avg_cube', which is unknown"),
])  # fmt: skip
def test_optimizer_state_that_the_optimizer_would_not_keep_is_refused(
    run: Path, alter: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], reason: str
) -> None:
    """Adam's fused kernel would write beyond a smaller tensor."""
    restate(newest(run), optimizers__denoiser_dot_safetensors=lambda f: save_file(alter(load_file(f)), f))
    error = refused(train("run/recipe.toml", "run.out=run", "run.steps=6", flags=("--resume",)))
    assert reason in error and "the state of 'denoiser'" in error


@pytest.mark.parametrize("text", ['{"3": {"step": 1}}', '{"3": []}', '{"x": {}}', '{"3": {"lr": "x"}}'])
def test_optimizer_state_beside_tensors_that_it_would_not_keep_is_refused(run: Path, text: str) -> None:
    restate(newest(run), optimizers__denoiser_dot_json=lambda file: file.write_text(text))
    error = refused(train("run/recipe.toml", "run.out=run", "run.steps=6", flags=("--resume",)))
    assert "the state of 'denoiser'" in error


def test_a_checkpoint_with_a_file_that_its_manifest_does_not_list_is_refused(run: Path) -> None:
    (newest(run) / ".DS_Store").write_bytes(b"of the system")
    (newest(run) / "networks" / "more.safetensors").write_bytes(b"x")
    error = refused(train("run/recipe.toml", "run.out=run", "run.steps=6", flags=("--resume",)))
    assert "has networks/more.safetensors, which manifest.json does not list" in error


@pytest.mark.parametrize("name", ["networks/denoiser", "ema/denoiser"])
def test_a_checkpoint_of_other_numbers_is_refused(run: Path, name: str) -> None:
    def halve(file: Path) -> None:
        save_file({key: tensor.half() for key, tensor in load_file(file).items()}, file)

    restate(newest(run), **{f"{name.replace('/', '__')}_dot_safetensors": halve})
    error = refused(train("run/recipe.toml", "run.out=run", "run.steps=6", flags=("--resume",)))
    assert "is of torch.float16 there and of torch.float32 here" in error


# Recipes


@pytest.mark.parametrize("section", ["networks", "optimizers", "ema"])
@pytest.mark.parametrize("role", ["../x", "/x", "a/b", "..", "", "a\\nb", "x" * 300])
def test_a_role_that_is_no_name_is_refused_with_its_line(write: Write, section: str, role: str) -> None:
    recipe = write().read_text() + f'\n[{section}."{role}"]\ntype = "unet"\n'
    error = refused(train(write(recipe)))
    assert "a name here has letters, digits and _ only" in error
    assert f"tiny.toml:{len(recipe.splitlines()) - 1}: [{section}" in error
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.toml"]


@pytest.mark.parametrize("name", ["../x", "x/../../x"])
def test_a_metric_that_is_no_name_writes_no_score(run: Path, name: str) -> None:
    before = content(Path())
    for stated in ([name], ["nll", "--set", f'metrics."{name}".type=nll']):
        error = refused(CliRunner().invoke(main, ["evaluate", "run", "--metrics", *stated]))
        assert name in error
    assert content(Path()) == before


@pytest.mark.parametrize("name", ["..toml", "...toml"])
def test_a_recipe_that_would_name_another_folder_is_refused(write: Write, name: str) -> None:
    """runs/.. is no folder for a run."""
    assert f"{name} needs a name before .toml" in refused(train(write(name=name)))


@pytest.mark.parametrize("project", ["../../x", "/x", "a/../../../x"])
def test_a_tracker_writes_inside_the_run(write: Write, project: str, tmp_path: Path) -> None:
    stated = ('trackers.names=["tensorboard"]', f"trackers.project={project}")
    assert "is a folder outside the run" in refused(train(write(), *stated))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.toml"]


def test_everything_that_a_run_writes_is_in_its_folder(write: Write, tmp_path: Path) -> None:
    recipe = write()
    assert train(recipe, "run.out=somewhere/run").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["somewhere", "tiny.toml"]
    assert [path.name for path in (tmp_path / "somewhere").iterdir()] == ["run"]


# Files that are not what they should be


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


READ = [["runs", "."], ["compare", "run"]]
SAMPLE = ["sample", "run", "--num", "1", "--overwrite"]
RESUME = ["train", "run/recipe.toml", "--resume", "--set", "run.out=run", "--set", "run.steps=5"]


@pytest.mark.parametrize(("name", "special", "commands"), [
    *((name, pipe, [*READ, RESUME]) for name in ("recipe.toml", "run.json", "metrics.jsonl", ".lock")),
    *((name, pipe, READ) for name in ("cost.json", "scores/fid.json")),
    *((name, pipe, [*READ, SAMPLE]) for name in (
        "pipeline/pipeline.json", "pipeline/weights.safetensors", "pipeline/README.md",
        "pipeline/unet/diffusion_pytorch_model.safetensors",
    )),
    *((f"{{checkpoint}}/{name}", pipe, [RESUME]) for name in (
        "manifest.json", "networks/denoiser.safetensors", "optimizers/denoiser.json",
    )),
    ("metrics.jsonl", device, READ), ("pipeline/weights.safetensors", device, [SAMPLE]),
])  # fmt: skip
def test_a_pipe_or_a_device_is_read_by_no_command(
    run: Path, name: str, special: Callable[[Path], None], commands: list[list[str]]
) -> None:
    """Opening the one would wait for ever, reading the other fill the memory."""
    path = run / name.format(checkpoint=newest(run).relative_to(run))
    path.parent.mkdir(exist_ok=True)
    special(path)
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert done.exit_code in (0, 2), (command, done.output, done.exception)


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_link_in_a_run_folder_is_not_written_through(run: Path, name: str, flag: str) -> None:
    Path("mine.txt").write_text("years of work")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(Path("mine.txt").absolute())
    train("run/recipe.toml", "run.out=run", "run.steps=5", flags=(flag,))
    assert Path("mine.txt").read_text() == "years of work"


def test_a_link_in_a_run_folder_is_not_read_as_its_recipe(run: Path) -> None:
    """It would end in the report, and on the model card that `toolkit push` publishes."""
    (run / "recipe.toml").rename("secret.toml")
    (run / "recipe.toml").symlink_to(Path("secret.toml").absolute())
    assert "it is a link, which is not followed" in refused(CliRunner().invoke(main, ["compare", "run"]))


def test_a_safetensors_file_with_more_names_than_any_network_is_refused_before_it_is_read(
    saved: Path,
) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    (saved / "weights.safetensors").write_bytes(header({f"a{i}": entry for i in range(120_000)}))
    assert "120,000 tensors, 100,000 at most" in refusal(saved)
    (saved / "weights.safetensors").write_bytes(header({"x" * 2**24: entry}))
    assert "its header has" in refusal(saved)


# Names on the terminal

EVIL = "\x1b]0;owned\x07\x1b[31m\x9bA\u202e"  # a title, a colour, a C1 sequence, and writing backwards


def harmless(output: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in output)


@pytest.mark.parametrize("command", [
    ("runs", "."), ("compare", "{run}"), ("compare", "{run}", "run"), ("cost", "{run}", "--seconds", "0"),
    ("sample", "{run}", "--num", "1", "--out", "{run}/grid.png"), ("sample", "{run}/none"),
    ("sample", "run", "{run}"), ("train", "{run}/none.toml"),
    ("train", "{run}/recipe.toml", "--resume", "--set", "run.out={run}"),
    ("push", "{run}", "me/digits", "--dry-run"),
    ("recipe", "show", "{run}/recipe.toml", "--set", "run.out={run}", "--origin"),
])  # fmt: skip
def test_names_of_folders_and_files_reach_no_terminal_as_they_are(
    run: Path, command: tuple[str, ...]
) -> None:
    evil = shutil.copytree(run, run.parent / f"run{EVIL}")
    (evil / "pipeline" / f"x{EVIL}").touch()
    done = CliRunner().invoke(main, [part.format(run=evil) for part in command])
    assert done.exit_code in (0, 2), done.output
    assert harmless(done.output) and "\\x1b]0;owned" in done.output.replace("\n", "")


@pytest.mark.parametrize("command", [
    ("--help",), ("plugins",), ("plugins", "--json"), ("plugins", "doctor"), ("recipes",),
])  # fmt: skip
def test_what_distributions_and_recipes_are_called_reaches_no_terminal_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_plugin" / "recipes").mkdir(parents=True)
    source = f'"""{EVIL}"""\nraise ValueError("{EVIL}")'
    (tmp_path / "evil_plugin" / "__init__.py").write_text(source)
    (tmp_path / "evil_plugin" / "recipes" / f"x{EVIL}.toml").write_text(f"# {EVIL}\n")
    info = tmp_path / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: evil{EVIL}\nVersion: 1{EVIL}\n")
    entries = f"[toolkit]\nevil{EVIL} = evil_plugin\n[toolkit.commands]\nevil{EVIL} = evil_plugin:main\n"
    (info / "entry_points.txt").write_text(entries)
    done = CliRunner().invoke(main, list(command))
    assert done.exit_code in (0, 1) and harmless(done.output), done.output


# Where one happens to be


def test_a_repository_whose_settings_name_commands_has_none_of_them_run() -> None:
    """core.fsmonitor and filters are run by `git status`, and a folder with a .git may be a stranger's."""

    def git(*arguments: str) -> None:
        subprocess.run(("git", "-c", "user.name=a", "-c", "user.email=b", *arguments), check=True)

    git("init", "-q")
    Path("code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-qm", "first")
    clean = git_state()
    assert clean is not None and clean["changed"] is False
    sprung = str(Path("sprung").absolute())
    for setting in ("core.fsmonitor", "filter.x.clean", "filter.x.process", "core.pager", "diff.external"):
        git("config", setting, f"touch {sprung}; cat")
    Path(".gitattributes").write_text("* filter=x")
    Path("code.py").write_text("2")
    assert git_state() == {**clean, "changed": True}
    assert not Path(sprung).exists()
