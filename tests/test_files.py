"""Files and folders that are replaced: whole before and after, wherever the process is killed."""

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import content

from toolkit.files import new_folder, refuse_taken, settle, write_text
from toolkit.pipeline.images import save_images


def killed(work: Callable[[], object], at: int) -> bool:
    """Do `work` in a process that dies at its file operation number `at`; False if it was done before."""
    child = os.fork()
    if child == 0:
        numbers = itertools.count()

        def operation(event: str, arguments: object) -> None:
            if event.partition(".")[0] in ("os", "open", "shutil", "fcntl") and next(numbers) == at:
                os._exit(9)

        sys.addaudithook(operation)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def folder_of(target: Path, text: str) -> None:
    with new_folder(target, replace=True) as temporary:
        write_text(temporary / "inner" / "text", text)


def pictures(target: Path, text: str) -> None:
    save_images([torch.full((2 if text == "old" else 1, 1, 2, 2), float(text == "old"))], target)


@pytest.mark.parametrize(("write", "before"), [
    (folder_of, "old"), (write_text, "old"), (pictures, "old"), (folder_of, None),
])  # fmt: skip
@pytest.mark.slow
def test_a_replacement_killed_at_any_operation_is_complete_or_undone_by_the_next_command(
    tmp_path: Path, write: Callable[[Path, str], None], before: str | None
) -> None:
    def state(place: Path) -> object:
        return content(place) if place.is_dir() else place.read_text() if place.exists() else None

    for text in ("old", "new"):
        write(tmp_path / text / "thing", text)
    whole = [state(tmp_path / "old" / "thing") if before else None, state(tmp_path / "new" / "thing")]
    for at in itertools.count():
        target = tmp_path / str(at) / "thing"
        if before:
            write(target, before)
        dead = killed(lambda target=target: write(target, "new"), at)  # type: ignore[misc]
        settle(target)
        assert state(target) in whole, at
        assert [path.name for path in target.parent.glob("*")] in ([], ["thing"]), at
        assert not list(target.parent.glob(".*")), at
        if not dead:
            break
        write(target, "new")  # and the same command again does its work
        assert state(target) == whole[1]
    assert at > 5


def test_a_set_that_was_being_replaced_is_not_replaced_unasked(tmp_path: Path) -> None:
    """Between the two renames of a replacement the place looks free."""
    target = tmp_path / "set"
    folder_of(tmp_path / ".replaced-set", "old")
    with pytest.raises(Exception, match="is already there"):
        refuse_taken(target, False, "--save")
    assert content(target) == {"inner/text": b"old"}


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "set") as temporary:
        settle(tmp_path / "set")
        write_text(tmp_path / "other", "by this process too")
        write_text(temporary / "text", "all of it")
    assert content(tmp_path) == {"set/text": b"all of it", "other": b"by this process too"}


@pytest.mark.parametrize("name", [".writing-novel.txt", ".writing-a-0123", ".replaced", ".DS_Store"])
def test_hidden_files_of_others_stay(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path / "set", "old")
    for folder in (tmp_path, tmp_path / "set"):
        (folder / name).write_text("theirs")
    folder_of(tmp_path / "set", "new")
    theirs = b"theirs"
    assert content(tmp_path) == {name: theirs, f"set/{name}": theirs, "set/inner/text": b"new"}


def test_other_files_beside_a_set_of_pictures_stay(tmp_path: Path) -> None:
    pictures(tmp_path / "set", "old")
    (tmp_path / "set" / "notes.md").write_text("mine")
    pictures(tmp_path / "set", "new")
    assert sorted(content(tmp_path / "set")) == ["000000.png", "notes.md"]


def test_a_folder_that_cannot_be_renamed_is_filled_in_place(tmp_path: Path) -> None:
    pictures(tmp_path / "elsewhere", "old")
    (tmp_path / "set").symlink_to(tmp_path / "elsewhere")
    pictures(tmp_path / "set", "new")
    assert (tmp_path / "set").is_symlink() and sorted(content(tmp_path / "elsewhere")) == ["000000.png"]
