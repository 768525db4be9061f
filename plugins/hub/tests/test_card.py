"""The model card in a pipeline folder: true, readable for the Hub, never written over somebody's words."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard

import toolkit
from toolkit.cli import main
from toolkit_hub.card import card_of, kept_card, refresh_card, sealed
from toolkit_hub.publish import files_to_publish


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "ddpm", tmp_path / "run"))


def cost(run: Path, *more: str) -> Result:
    flags = ["--device", "cpu", "--seconds", "0", "--batch-size", "2", *more]
    return CliRunner().invoke(main, ["cost", str(run), *flags], catch_exceptions=False)


def score(run: Path, steps: int, value: float) -> None:
    (run / "scores").mkdir(exist_ok=True)
    found = {
        "metric": "fid", "values": {"fid_mine": value}, "curves": {}, "fingerprint": "1a2b3c4d",
        "protocol": {"generated": {"num": 50},
                     "real": {"num": 60, "split": "train", "data": {"type": "digits"}}},
        "sampling": {"sampler": {"type": "ddim", "num_inference_steps": 5}},
        "model": {"identity": "x", "steps": steps, "weights": "ema"},
    }  # fmt: skip
    (run / "scores" / f"{value}.json").write_text(json.dumps(found))


def test_a_run_leaves_a_card_that_the_hub_can_read(run: Path) -> None:
    card = ModelCard.load(run / "pipeline" / "README.md")
    assert card.data.library_name == "diffusion-toolkit"
    assert set(card.data.tags) == {"diffusion", "image-generation", "diffusers"}
    assert card.data.pipeline_tag == "unconditional-image-generation" and card.data.license is None
    assert "trained for 4 steps by the recipe `ddpm`" in card.text and "averages" in card.text
    assert re.search(r"\| data \| `digits` \| .*split train", card.text)
    assert "toolkit.load(" in card.text and "## Scores" not in card.text


def test_a_card_names_the_plugins_that_its_folder_needs(runs: Path) -> None:
    text = (runs / "ddgan" / "pipeline" / "README.md").read_text()
    assert "It needs the plugins `ddgan` (diffusion-toolkit " in text
    assert "- diffusers" not in text  # which cannot sample it


def test_scores_of_these_weights_are_shown_with_their_protocol_and_others_are_not(run: Path) -> None:
    score(run, 4, 12.5)
    score(run, 3, 99.75)
    refresh_card(run / "pipeline", run)
    text = (run / "pipeline" / "README.md").read_text()
    row = "| fid_mine | 12.5 | 50 | 60 digits, train | `ddim` num_inference_steps 5 | 1a2b3c4d |"
    assert row in text and "99.75" not in text


def test_what_a_model_costs_is_on_its_card(run: Path) -> None:
    assert cost(run).exit_code == 0
    found = json.loads((run / "cost.json").read_text())
    text = (run / "pipeline" / "README.md").read_text()
    assert f"| parameters | denoiser {found['parameters']['denoiser']:,} |" in text
    assert f"| flops per image | {found['flops_per_image']:,} |" in text


def test_the_cost_of_training_is_that_of_all_its_parts(run: Path) -> None:
    assert cost(run).exit_code == 0
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "seconds": 1e4}) + "\n")
    refresh_card(run / "pipeline", run)
    assert "| train seconds | 1e+04 |" in (run / "pipeline" / "README.md").read_text().replace(
        "10,000", "1e+04"
    )


def test_an_edited_card_stays_and_that_is_said(run: Path) -> None:
    path = run / "pipeline" / "README.md"
    path.write_text(path.read_text().replace("# ddpm", "# My digits"))
    mine = path.read_text()
    shown = cost(run).output
    assert path.read_text() == mine and "README.md: was edited, and stays as it is" in shown
    resumed = CliRunner().invoke(
        main, ["train", str(run / "recipe.toml"), "--resume", "--set=run.steps=5", f"--set=run.out={run}"]
    )
    assert resumed.exit_code == 0, resumed.output
    assert toolkit.load(run).saved.steps == 5 and path.read_text() == mine


def test_a_folder_of_diffusers_alone_gets_no_card(run: Path) -> None:
    for name in ("README.md", "pipeline.json"):
        (run / "pipeline" / name).unlink()
    done = cost(run)
    assert done.exit_code == 0 and "failed" not in done.output
    assert not (run / "pipeline" / "README.md").exists()


def test_a_card_reads_no_pipe_and_no_link(run: Path) -> None:
    (run / "cost.json").symlink_to("/etc/passwd")
    assert "## Cost" not in card_of(run / "pipeline", run)
    (run / "recipe.toml").unlink()
    os.mkfifo(run / "recipe.toml")
    assert "## Training" not in card_of(run / "pipeline", run)


def test_a_card_that_was_not_edited_follows_the_weights(run: Path) -> None:
    resumed = CliRunner().invoke(
        main, ["train", str(run / "recipe.toml"), "--resume", "--set=run.steps=5", f"--set=run.out={run}"]
    )
    assert resumed.exit_code == 0, resumed.output
    assert "trained for 5 steps" in (run / "pipeline" / "README.md").read_text()


@pytest.mark.parametrize(
    "text", ["", "# Mine\n", sealed("# Ours\n") + "and mine\n", "x" + sealed("# Ours\n")]
)
def test_only_what_bears_the_hash_of_itself_is_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert kept_card(tmp_path) == (text or None)
    (tmp_path / "README.md").write_text(sealed("# Ours\n"))
    assert kept_card(tmp_path) is None


def test_a_pipeline_takes_its_card_along_but_another_sampler_has_one_of_its_own(run: Path) -> None:
    path = run / "pipeline" / "README.md"
    path.write_text(path.read_text() + "My own words.\n")
    pipeline = toolkit.load(run)
    pipeline.save_pretrained("copy")
    pipeline.with_sampler("ddim", num_inference_steps=5).save_pretrained("other")
    assert Path("copy/README.md").read_text() == path.read_text()
    assert re.search(r"`ddim` \|.* num_inference_steps 5", Path("other/README.md").read_text())
    assert "My own words" not in Path("other/README.md").read_text()
    assert Path("copy/README.md") in files_to_publish(Path("copy"))


def test_folders_of_somebodys_machine_are_not_on_a_card(run: Path) -> None:
    recipe = (run / "recipe.toml").read_text()
    stated = re.sub(
        r'\[data\]\ntype = "digits"', '[data]\ntype = "folder"\npath = "/home/me/secret/cats"', recipe
    )
    assert stated != recipe
    (run / "recipe.toml").write_text(stated)
    text = card_of(run / "pipeline", run)
    assert "path cats" in text and "/home/me" not in text
