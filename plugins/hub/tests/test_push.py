"""`toolkit push`, against a Hub that is a folder; nothing here asks the network."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import CliRunner, Result
from small_runs import content, refused

import toolkit
from toolkit.cli import main


class Hub:
    """Repositories as folders in ./hub, branches as folders in them."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        (Path("hub") / repo_id / "main").mkdir(parents=True, exist_ok=exist_ok)
        (Path("hub") / repo_id / "private").write_text(str(private))
        return f"https://hub/{repo_id}"

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        (Path("hub") / repo_id / branch).mkdir(exist_ok=exist_ok)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, ignore_patterns: list[str], revision: str | None
    ) -> None:
        ignored = shutil.ignore_patterns(*ignore_patterns)
        shutil.copytree(
            folder_path, Path("hub") / repo_id / (revision or "main"), dirs_exist_ok=True, ignore=ignored
        )


@pytest.fixture
def model(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's pipeline, a token, and that Hub."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Path(shutil.copytree(runs / "ddpm", tmp_path / "run")) / "pipeline"


def push(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["push", *arguments])


def test_what_is_pushed_is_the_folder_and_loads_again(model: Path) -> None:
    done = push("run", "me/digits", "--private")
    assert done.exit_code == 0 and "https://hub/me/digits" in done.output
    assert content(Path("hub/me/digits/main")) == content(model)
    assert Path("hub/me/digits/private").read_text() == "True"
    assert toolkit.load("hub/me/digits/main").calls == toolkit.load(model).calls


def test_a_revision_is_a_branch(model: Path) -> None:
    assert push("run", "me/digits", "--revision", "smaller").exit_code == 0
    assert content(Path("hub/me/digits/smaller")) == content(model)
    assert content(Path("hub/me/digits/main")) == {}


def test_a_dry_run_lists_every_file_with_its_size_and_uploads_nothing(model: Path) -> None:
    done = push("run", "me/digits", "--dry-run")
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in done.stdout.splitlines()}
    assert listed == {name: len(text) for name, text in content(model).items()}
    assert "nothing was uploaded" in done.stderr and not Path("hub").exists()


def test_hidden_files_stay_here(model: Path) -> None:
    (model / ".env").write_text("secret")
    (model / "unet" / ".git").mkdir()
    (model / "unet" / ".git" / "config").write_text("secret")
    done = push("run", "me/digits")
    assert done.exit_code == 0 and ".env" not in done.output
    assert not [path for path in Path("hub").rglob("*") if path.name in (".env", ".git", "config")]


def test_a_link_out_of_the_folder_is_not_followed(model: Path) -> None:
    Path("secret").write_text("secret")
    (model / "README.txt").symlink_to(Path("secret").absolute())
    assert "README.txt: is a link to a place outside the folder" in refused(push("run", "me/digits"))
    assert not Path("hub").exists()


def test_a_model_that_does_not_load_is_not_pushed(model: Path) -> None:
    (model / "weights.safetensors").write_bytes(b"")
    assert "weights.safetensors: cannot be read" in refused(push("run", "me/digits"))
    assert not Path("hub").exists()


def test_without_a_token_it_says_how_to_log_in(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "hf auth login" in refused(push("run", "me/digits"))


@pytest.mark.parametrize("repo_id", ["me/digits", "me/two words", "a/b/c"])
def test_without_a_network_and_for_a_wrong_name_the_error_is_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch, repo_id: str
) -> None:
    """The real client, offline as all tests are: a wrong name is refused first, a right one by the lack."""
    monkeypatch.undo()
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert f"{repo_id}: cannot be uploaded: " in refused(push(str(model), repo_id))


def test_a_refused_connection_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(Hub):
        def create_repo(self, repo_id: str, **options: object) -> str:
            raise huggingface_hub.errors.HTTPError("[Errno 111] Connection refused")

    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    assert "me/digits: cannot be uploaded: [Errno 111] Connection refused" in refused(
        push("run", "me/digits")
    )
