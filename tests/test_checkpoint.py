"""Checkpoints: complete or refused by name, readable by others, and nothing in them but tensors and JSON."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import content, finished, refused, resumed, train
from torch import nn

from toolkit import Objective, Turn
from toolkit.errors import CheckpointError
from toolkit.training import checkpoint
from toolkit.training.ema import EMA, EMAOptions
from toolkit.training.optimizers import Constant, OptimizerOptions, adam
from toolkit.training.trainer import Training

Write = Callable[..., Path]


class Nothing(Objective):
    roles, samples = {"net": nn.Module}, "net"

    def turns(self) -> tuple[Turn, ...]:
        return ()


def training(net: nn.Module | None = None, *, lr: float = 0.1, teacher: nn.Module | None = None) -> Training:
    """A network after one step of Adam, with its average; and a teacher that is not trained."""
    torch.manual_seed(0)
    net = net or nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer = adam(net.parameters(), lr, betas=(0.5, 0.6))
    ema = EMA(net, EMAOptions(0.9))
    net(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    ema.update(net)
    networks = {"net": net} | ({"teacher": teacher} if teacher is not None else {})
    return Training(
        Nothing(), networks, {"net": optimizer}, {"net": OptimizerOptions(Constant())}, {"net": ema}
    )


def save(folder: Path, run: Training, step: int, facts: dict[str, int]) -> Path:
    return checkpoint.save(folder, checkpoint.state_of(run, step), facts)


def saved(folder: Path, *steps: int) -> list[Path]:
    return [save(folder, training(), step, {}) for step in steps]


def truncate(path: Path) -> None:
    file = path / "networks" / "net.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def alter(path: Path) -> None:
    file = path / "ema" / "net.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def lose(path: Path) -> None:
    (path / "optimizers" / "net.safetensors").unlink()


def leave_unfinished(path: Path) -> None:
    (path / "manifest.json").unlink()


def cut_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"state.json": {"by')


def empty_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("{}")


def replace_by_another_format(path: Path) -> None:
    state = json.loads((path / "state.json").read_text()) | {"format": 99}
    (path / "state.json").write_text(json.dumps(state))
    manifest = json.loads((path / "manifest.json").read_text())
    size, digest = (path / "state.json").stat().st_size, checkpoint.sha256_of(path / "state.json")
    manifest["state.json"] = {"bytes": size, "sha256": digest}
    (path / "manifest.json").write_text(json.dumps(manifest))


def replace_by_a_foreign_one(path: Path) -> None:
    save(path.parent, training(nn.Linear(2, 7)), 2, {})


@pytest.mark.parametrize(("damage", "reason"), [
    (truncate, "networks/net.safetensors is truncated or foreign"),
    (alter, "ema/net.safetensors was altered, its checksum is not the manifest's"),
    (lose, "optimizers/net.safetensors is missing"),
    (leave_unfinished, "not a complete checkpoint, it has no manifest.json"),
    (cut_manifest, "manifest.json: cannot be read"),
    (empty_manifest, "it does not list state.json"),
    (replace_by_another_format, "is of format 99, this version reads 1"),
    (replace_by_a_foreign_one, "of another recipe"),
])  # fmt: skip
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_used(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    good, bad = saved(tmp_path, 1, 2)
    damage(bad)
    path, step, complaints = checkpoint.load_newest(tmp_path, training(), {})
    assert (path, step) == (good, 1)
    assert len(complaints) == 1 and str(bad) in complaints[0] and reason in complaints[0]


def test_without_a_good_checkpoint_all_are_named(tmp_path: Path) -> None:
    for path in saved(tmp_path, 1, 2):
        alter(path)
    with pytest.raises(CheckpointError) as refusal:
        checkpoint.load_newest(tmp_path, training(), {})
    assert [word in str(refusal.value) for word in ("0000001", "0000002", "no checkpoint to go on")] == [
        True
    ] * 3


def test_a_refused_checkpoint_changes_nothing(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    other = training(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
    before = {name: value.clone() for name, value in other.networks["net"].state_dict().items()}
    with pytest.raises(CheckpointError, match=r"is of another recipe: '1.bias' has shape \(3,\) there"):
        checkpoint.load(path, other, {})
    after = other.networks["net"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_of_another_data_set_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, training(), 1, {"examples": 10})
    with pytest.raises(CheckpointError, match="made with examples = 10, not 20"):
        checkpoint.load(path, training(), {"examples": 20})


def test_a_half_written_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (good,) = saved(tmp_path, 1)
    (tmp_path / ".writing-step-0000002-0123abcd" / "networks").mkdir(parents=True)
    assert checkpoint.load_newest(tmp_path, training(), {}) == (good, 1, [])


def test_a_checkpoint_takes_the_place_of_a_refused_one_of_its_step(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    truncate(path)
    saved(tmp_path, 1)
    assert checkpoint.load_newest(tmp_path, training(), {}) == (path, 1, [])


def test_a_refused_later_checkpoint_does_not_push_out_the_good_one(tmp_path: Path) -> None:
    good, _, bad = saved(tmp_path, 2, 3, 9)
    alter(bad)
    saved(tmp_path, 4)
    checkpoint.prune(tmp_path, 4, keep_last=1, keep_every=2)
    assert checkpoint.last(tmp_path, 5) == tmp_path / "step-0000004"
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "4", "9"] and good.exists()


def test_the_newest_is_the_one_of_the_highest_step_also_beyond_seven_digits(tmp_path: Path) -> None:
    _, newest = saved(tmp_path, 9_999_999, 10_000_000)
    assert checkpoint.load_newest(tmp_path, training(), {})[0] == newest


def test_loading_restores_everything_but_the_recipes_rates(tmp_path: Path) -> None:
    before, after = training(lr=0.1), training(lr=0.7)
    after.optimizers["net"].param_groups[0]["betas"] = (0.1, 0.2)
    for parameter in after.networks["net"].parameters():
        nn.init.zeros_(parameter)
    after.optimizers["net"].state.clear()
    after.ema["net"].updates = 0
    checkpoint.load(save(tmp_path, before, 3, {}), after, {})
    group = after.optimizers["net"].param_groups[0]
    assert (group["lr"], group["betas"]) == (0.7, (0.1, 0.2))
    assert after.ema["net"].updates == 1
    again = save(tmp_path / "again", after, 3, {})
    assert content(again) == content(tmp_path / "step-0000003")


def test_tied_weights_are_saved_and_stay_tied(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        net[1].weight = net[0].weight
        return net

    path = save(tmp_path, training(tied()), 1, {})
    net = tied()
    checkpoint.load(path, training(net), {})
    assert net[1].weight is net[0].weight


def test_buffers_that_share_memory_are_saved(tmp_path: Path) -> None:
    net = nn.Linear(2, 1)
    table = torch.arange(6.0)
    net.register_buffer("first", table[:3])
    net.register_buffer("rest", table[3:])
    assert checkpoint.load(save(tmp_path, training(net), 1, {}), training(net), {}) == 1


def test_a_teacher_with_counters_among_its_buffers_can_be_told_from_another(tmp_path: Path) -> None:
    teacher, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other(torch.randn(4, 2))
    path = save(tmp_path, training(teacher=teacher), 1, {})
    assert checkpoint.load(path, training(teacher=teacher), {}) == 1
    with pytest.raises(
        CheckpointError, match="network 'teacher', which is not trained, has other weights now"
    ):
        checkpoint.load(path, training(teacher=other), {})


def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        (path,) = saved(tmp_path, 1)
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in path.rglob("*.*")} == {"0o640"}


def test_a_run_passes_over_a_damaged_checkpoint_and_writes_it_anew(write: Write, runs: Path) -> None:
    recipe = write(name="ddpm.toml")
    keep = ("checkpoints.every=2", "checkpoints.keep_last=1", "checkpoints.keep_every=2", "run.out=run")
    finished(recipe, *keep)
    last = Path("run/checkpoints/step-0000004")
    (last / "ema" / "denoiser.safetensors").unlink()
    result = resumed(recipe, *keep, "run.steps=5")
    assert (
        "passed over run/checkpoints/step-0000004: ema/denoiser.safetensors is missing"
        in result.output.replace(f"{Path.cwd()}/", "")
    )
    assert "resuming from" in result.output and "step-0000002" in result.output
    assert content(last) == content(runs / "ddpm" / "checkpoints" / last.name)


def test_a_run_without_a_good_checkpoint_is_not_resumed(write: Write, runs: Path) -> None:
    shutil.copytree(runs / "ddpm", "run")
    Path("run/checkpoints/step-0000004/state.json").unlink()
    error = refused(train(write(), "run.out=run", "run.steps=5", flags=("--resume",)))
    assert "state.json is missing" in error and "has no checkpoint to go on from" in error
