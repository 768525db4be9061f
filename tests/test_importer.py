"""Pipelines from files of weights that somebody else's code wrote."""

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from toolkit import Importer, Saved, copy_weights
from toolkit.errors import CheckpointError
from toolkit.pipeline.importer import import_pipeline, read_state
from toolkit.registry import load as plugins


class Renamed(Importer):
    """Knows a denoiser of points whose only other name is a prefix."""

    def describe(self, state: Mapping[str, Tensor]) -> Saved:
        if any(not name.startswith("their.") for name in state):
            raise ValueError("is not theirs")
        return Saved(
            sample_shape=(2,),
            num_classes=None,
            schedule={"type": "linear", "num_train_timesteps": 5, "beta_start": 0.1, "beta_end": 0.2},
            network={"type": "ddpm_mlp", "width": len(state["their.net.0.bias"])},
            sampler={"type": "ancestral"},
            start={"type": "noise"},
        )

    def fill(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        copy_weights(state, {f"their.{name}": tensor for name, tensor in network.state_dict().items()})


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file, and the tensors in it by our names."""
    torch.manual_seed(1)
    sizes = {"net.0": (4, 18), "net.2": (4, 4), "net.4": (4, 4), "net.6": (2, 4)}
    state = {f"{name}.weight": torch.randn(size) for name, size in sizes.items()}
    state |= {f"{name}.bias": torch.randn(size[0]) for name, size in sizes.items()}
    torch.save({f"their.{name}": tensor for name, tensor in state.items()}, tmp_path / "their.pt")
    return tmp_path / "their.pt", state


def test_an_importer_says_what_the_pipeline_is_and_copies_the_weights(
    theirs: tuple[Path, dict[str, Tensor]],
) -> None:
    file, state = theirs
    pipeline = import_pipeline(Renamed(), file, plugins.load().registry)
    found = pipeline.denoiser.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert pipeline.calls == 5 and pipeline.draw(None, 3).shape == (3, 2)
    assert "imported from their.pt" in repr(pipeline)


def test_names_of_a_run_over_several_processes_are_those_of_the_network(
    theirs: tuple[Path, dict[str, Tensor]],
) -> None:
    file, state = theirs
    torch.save({f"module.their.{name}": tensor for name, tensor in state.items()}, file)
    found = import_pipeline(Renamed(), file, plugins.load().registry).denoiser.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    twice = {f"module.their.{name}": tensor for name, tensor in state.items()}
    torch.save(twice | {"their.net.0.bias": state["net.0.bias"]}, file)
    with pytest.raises(CheckpointError, match="has a tensor twice, with and without 'module.'"):
        import_pipeline(Renamed(), file, plugins.load().registry)


def test_weights_are_copied_whole_or_not_at_all() -> None:
    """Nothing is copied unless every tensor fits, and the one that does not is named."""
    right = {"a": torch.ones(2), "b": torch.ones(3)}
    for theirs, reason in (
        ({"a": right["a"]}, "has no tensor 'b'"),
        ({**right, "c": torch.ones(1)}, "has a further tensor 'c'"),
        ({**right, "b": torch.ones(3, 1)}, r"'b' is \(3, 1\) there and \(3,\) here"),
        ({**right, "b": torch.ones(3, dtype=torch.int64)}, "'b' is of torch.int64"),
        ({**right, "b": torch.ones(3).to_sparse()}, "'b' is of torch.float32 in torch.sparse_coo"),
        ({"c": torch.ones(1)}, "none of its tensors has a name that this network knows"),
    ):
        ours = {name: torch.zeros_like(tensor) for name, tensor in right.items()}
        with pytest.raises(ValueError, match=reason):
            copy_weights(theirs, ours)
        assert not any(bool(tensor.any()) for tensor in ours.values())
    ours = {"a": torch.zeros(2), "b": torch.zeros(3, requires_grad=True)}
    copy_weights({name: tensor.half() for name, tensor in right.items()}, ours)
    assert all(torch.equal(ours[name].detach(), tensor) for name, tensor in right.items())


def test_the_reason_of_an_importer_is_told_with_the_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: is not theirs"):
        import_pipeline(Renamed(), tmp_path / "other.pt", plugins.load().registry)


def test_a_file_never_executes_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        import_pipeline(Renamed(), tmp_path / "trap.pt", plugins.load().registry)
    assert not (tmp_path / "sprung").exists()


def damaged(path: Path) -> dict[str, bytes]:
    """Files that are no weights, by what is wrong with them."""
    torch.save({"weight": torch.zeros(64)}, path)
    whole = path.read_bytes()
    path.unlink()
    return {
        "empty": b"",
        "text": b"# README\n\nweights of the paper, trained for 1200 epochs\n",
        "json": b'{"weight": [0.0]}',
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "zip": b"PK\x03\x04" + bytes(64),
        "cut": whole[: len(whole) // 2],
        "altered": whole[:100] + bytes(64) + whole[164:],
        "safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
        "pickle of a number": pickle.dumps(1),
        "pickle of an object": pickle.dumps(Path()),
        "pickle of names": pickle.dumps({"weight": "x"}, protocol=2),
        **{f"one byte {code:02x}": bytes([code]) for code in range(256)},
        **{f"two bytes {code:02x}": b"\x80\x02" + bytes([code]) + b"." for code in range(256)},
    }


def test_what_is_no_file_of_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "their.pt"
    for kind, content in damaged(path).items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            read_state(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1, (kind, message)
    for elsewhere in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_state(elsewhere)


@pytest.mark.parametrize("content", [
    None, 1, [], [torch.zeros(1)], torch.zeros(1), {"weight": 1}, {"weight": {}}, {1: torch.zeros(1)},
    {("a", "b"): torch.zeros(1)}, {None: torch.zeros(1)}, {"weight": [torch.zeros(1)]},
])  # fmt: skip
def test_what_is_no_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "their.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_state(tmp_path / "their.pt")


@pytest.mark.parametrize("change", [
    lambda tensor: tensor.double().to_sparse(), lambda tensor: tensor.to("meta"), lambda tensor: tensor[:1],
    lambda tensor: tensor.reshape(-1, 1, 1),
])  # fmt: skip
def test_whatever_an_importer_fails_on_is_told_with_the_file_in_one_line(
    change: Callable[[Tensor], Tensor], theirs: tuple[Path, dict[str, Tensor]]
) -> None:
    file, state = theirs
    torch.save({f"their.{name}": change(tensor) for name, tensor in state.items()}, file)
    with pytest.raises(CheckpointError, match=r"their\.pt: ") as caught:
        import_pipeline(Renamed(), file, plugins.load().registry)
    assert len(str(caught.value).splitlines()) == 1


def test_a_pipe_in_place_of_weights_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe: cannot be read: it is not a regular file"):
        read_state(tmp_path / "pipe")
