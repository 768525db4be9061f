"""Runs on several machines: two of them are played by one, over its loopback."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny import TINY_DDGAN

from toolkit.errors import RunError
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.runs.folder import RunFolder
from toolkit.training.loop import train
from toolkit.training.resume import refuse_unlike

DRIVER = Path(__file__).with_name("node_runs.py")


def on_two_nodes(command: Callable[[int, int], Sequence[str]], *, folders: Sequence[Path]) -> list[str]:
    """What each node writes to its stderr, of a command made of its rank and a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            command(rank, port), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment | {
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank, folder in enumerate(folders)
    ]  # fmt: skip
    return [node.communicate(timeout=600)[1] for node in nodes]


@pytest.mark.slow
def test_two_nodes_train_resume_and_evaluate_with_the_bits_of_one(tmp_path: Path) -> None:
    recipe, run, alone = tmp_path / "recipe.toml", tmp_path / "run", tmp_path / "alone"
    recipe.write_text(TINY_DDGAN)

    def torchrun(rank: int, port: int) -> list[str]:
        where = ["--master_addr", "127.0.0.1", "--master_port", str(port), "--node_rank", str(rank)]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
        return [*launcher, *where, str(DRIVER), str(recipe), str(run)]

    errors = on_two_nodes(torchrun, folders=[tmp_path, tmp_path])
    (score,) = (run / "scores").glob("*.json")
    assert json.loads(score.read_text())["values"]["sliced_wasserstein"] > 0, errors[0][-3000:]

    loaded = plugins.load()
    options = ["run.steps=6", f"run.out={alone}"]
    train(resolve(read_layers(recipe, options), loaded.registry), loaded)
    for weights in ("networks/denoiser", "networks/discriminator", "ema/denoiser", "optimizers/denoiser"):
        one, two = (f / "checkpoints/step-0000006" / f"{weights}.safetensors" for f in (alone, run))
        assert one.read_bytes() == two.read_bytes(), weights


@pytest.mark.slow
def test_nodes_that_do_not_share_the_run_folder_end_before_training(tmp_path: Path) -> None:
    """They have working directories of their own; they are launched as by srun, without torchrun."""
    recipe, folders = tmp_path / "recipe.toml", [tmp_path / "one", tmp_path / "other"]
    recipe.write_text(TINY_DDGAN)
    for folder in folders:
        folder.mkdir()
    source = f"""
from toolkit.__main__ import leave
from toolkit.cli import main
from toolkit.runs import folder
folder.SEEN = 0.5
try:
    main(["train", {str(recipe)!r}])
except SystemExit as end:
    leave(end.code)
"""
    main, other = on_two_nodes(lambda rank, port: [sys.executable, "-c", source], folders=folders)
    assert "another process has given up, and says why" in main
    place = folders[1] / "runs" / "recipe"
    assert f"{place}: on" in other and "this is not the folder that process" in other
    assert "Set run.out to a folder that all machines share" in other
    assert not (folders[0] / "runs" / "recipe" / "metrics.jsonl").exists() and not place.exists()


def test_a_folder_is_shared_where_its_claim_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.runs.folder.SEEN", 0.0)
    mine, elsewhere = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "other" / "run")
    mine.claim(resume=False, overwrite=False)
    assert mine.owner().startswith(f"{os.getpid()} on ")
    RunFolder(tmp_path / "run").refuse_unless_shared(mine.owner())
    with pytest.raises(RunError, match=f"is not the folder that process {os.getpid()} on .* has claimed"):
        elsewhere.refuse_unless_shared(mine.owner())
    mine.release()


def test_a_process_with_another_recipe_than_the_main_one_names_the_difference() -> None:
    main = {"data": {"type": "hub", "path": "/scratch/a"}, "run": {"steps": 10}}
    refuse_unlike("recipe", main, main | {"data": {"type": "hub", "path": "/scratch/b"}})
    with pytest.raises(RunError, match="the recipe on .*: run.steps is 20 here and 10 there"):
        refuse_unlike("recipe", main, main | {"run": {"steps": 20}})
