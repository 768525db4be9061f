"""Files of published weights: found or downloaded, and read without executing anything."""

import hashlib
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from torch import Tensor, nn

from toolkit import DataError


def weights_file(given: Path | None, url: str) -> Path:
    """The given file of weights, or else the one in torch's cache, which is downloaded if it is missing.

    Raises:
        DataError: if it cannot be downloaded, with the way out.
    """
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if given is None and not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=cached.stem.rpartition("-")[2])
        except (URLError, OSError, RuntimeError) as error:
            raise DataError(
                f"{url} cannot be downloaded ({error}): fetch it elsewhere, and name the file by "
                f"--set features.weights=FILE or put it at {cached}"
            ) from None
    return given or cached


def load_weights(network: nn.Module, path: Path) -> None:
    """Put the weights of a file into a network, which is then in eval mode.

    Raises:
        DataError: if the file does not hold plain weights, or those of another network.
    """
    try:
        state: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
        network.load_state_dict(state)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of weights") from None
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: does not hold the weights of this network: {reason}") from None
    network.eval().requires_grad_(False)


def identity(path: Path, preparation: str) -> str:
    """A hash of a file of weights, and how pictures are prepared for the network."""
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()} {preparation}"
