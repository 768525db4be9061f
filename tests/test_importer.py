"""Pipelines from files of weights that somebody else's code wrote."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from toolkit import Importer
from toolkit.errors import CheckpointError
from toolkit.pipeline.importer import import_pipeline
from toolkit.registry import load as plugins


class Renamed(Importer):
    """Knows a denoiser of points whose only other name is a prefix."""

    sample_shape = (2,)
    tables = {
        "schedule": {"type": "linear", "num_train_timesteps": 5, "beta_start": 0.1, "beta_end": 0.2},
        "network": {"type": "ddpm_mlp", "width": 4},
        "sampler": {"type": "ancestral"},
        "start": {"type": "noise"},
    }

    def fill(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        if any(not name.startswith("their.") for name in state):
            raise ValueError("is not theirs")
        network.load_state_dict({name.removeprefix("their."): tensor for name, tensor in state.items()})


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
