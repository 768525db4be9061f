"""Uploading a saved pipeline to the Hugging Face Hub."""

from pathlib import Path

from toolkit.commands import RunError


def files_to_publish(folder: Path) -> list[Path]:
    """All files in a pipeline's folder except hidden ones, sorted by name.

    Raises:
        RunError: if a link leads out of the folder: its target was hardly meant to be uploaded.
    """
    whole, files = folder.resolve(), []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if not path.resolve().is_relative_to(whole):
            raise RunError(f"{path}: is a link to a place outside the folder, which is not uploaded")
        if path.is_file():
            files.append(path)
    return files


def publish(folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload what `files_to_publish` lists into a model repository; returns its address.

    Args:
        folder: the folder of a pipeline.
        repo_id: "user/name"; the repository is created if there is none.
        private: whether a repository that is created now is private.
        revision: a branch, which is created if there is none; None for the main one.

    Raises:
        RunError: without a token or network, or if the Hub refuses.
    """
    files_to_publish(folder)
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    if get_token() is None:
        raise RunError("there is no token for the Hugging Face Hub: log in (hf auth login), or set HF_TOKEN")
    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        hidden = [".*", "*/.*"]
        api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, ignore_patterns=hidden)
    except (HTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{repo_id}: cannot be uploaded: {reason}") from error
    return str(address)
