"""Samples as pictures: conversion, grids and files."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolkit.files import new_file, new_folder, writing

OutputType = Literal["pil", "np", "pt"]
NUMBERED = re.compile(r"\d{6}\.png")  # the files of a set of samples
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # of a PNG, by channels
TILE = 64  # pixels that a tile should have at least: an 8x8 digit is unreadable at its own size


def to_uint8(samples: Tensor) -> Tensor:
    """Samples of any shape in [-1, 1], clamped, as uint8 0..255, rounded to nearest."""
    return ((samples.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_image(sample: Tensor) -> Image.Image:
    """One sample (C, H, W) in [-1, 1] with all its channels: grey, grey and alpha, RGB, or RGBA.

    Raises:
        ValueError: if there are more than four.
    """
    pixels = to_uint8(sample).cpu().numpy()
    if len(pixels) not in MODES:
        raise ValueError(f"a picture has 1 to 4 channels, not {len(pixels)}")
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def drawable(shape: Sequence[int], pictures: bool = True) -> bool:
    """Whether samples of a shape are pictures that a PNG can hold; `pictures` as in `Saved`."""
    return pictures and len(shape) == 3 and shape[0] in MODES


def convert(
    samples: Tensor, output_type: OutputType, pictures: bool = True
) -> list[Image.Image] | np.ndarray[Any, Any] | Tensor:
    """Pictures (n, C, H, W) in [-1, 1] as PIL images, or float32 in [0, 1]; other data unscaled.

    "np" is (n, H, W, C), "pt" stays (n, C, H, W). What no PNG can hold is an array also for "pil".
    """
    if output_type == "pil" and drawable(samples.shape[1:], pictures):
        return [to_image(sample) for sample in samples]
    if pictures and samples.ndim == 4:
        samples = (samples + 1) / 2
        return samples if output_type == "pt" else samples.permute(0, 2, 3, 1).cpu().numpy()
    return samples if output_type == "pt" else samples.cpu().numpy()


def to_grid(samples: Tensor, columns: int | None = None) -> Image.Image:
    """Samples (n, C, H, W) side by side, enlarged by nearest neighbour, with a gutter between them."""
    n, _, height, width = samples.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    scale = max(1, TILE // max(height, width))
    gutter = scale if scale > 1 else 1
    tile = (width * scale + gutter, height * scale + gutter)
    tiles = [to_image(sample) for sample in samples]
    mode = tiles[0].mode
    colour = (64,) * len(mode.rstrip("A")) + (255,) * mode.endswith("A")
    sheet = Image.new(mode, (columns * tile[0] + gutter, rows * tile[1] + gutter), colour)
    for i, image in enumerate(tiles):
        place = (gutter + i % columns * tile[0], gutter + i // columns * tile[1])
        sheet.paste(image.resize((width * scale, height * scale), Image.Resampling.NEAREST), place)
    return sheet


def save_samples(samples: Tensor, path: Path, pictures: bool = True) -> Path:
    """Save samples as a PNG grid, or as .npy with that name if no PNG can hold them; returns the file."""
    drawn = drawable(samples.shape[1:], pictures)
    if not drawn:
        path = path.with_suffix(".npy")
    with new_file(path) as temporary:
        if drawn:
            to_grid(samples).save(temporary, format="PNG")
        else:
            with temporary.open("wb") as file:  # given a name, numpy would add its own suffix
                np.save(file, samples.cpu().numpy(), allow_pickle=False)
    return path


def save_images(batches: Iterable[Tensor], folder: Path, pictures: bool = True) -> Path:
    """Save each sample as a PNG in its own size, 000000.png and so on; or all as samples.npy.

    The set replaces an earlier one as a whole, of which nothing stays; other files stay. Returns the folder,
    or the .npy file.
    """
    written, number = folder, 0
    with _new_set(folder) as temporary:
        for batch in batches:
            if not drawable(batch.shape[1:], pictures):
                written = folder / "samples.npy"
                save_samples(torch.cat([batch, *batches]), temporary / written.name, pictures)
                break
            for sample in batch:
                to_image(sample).save(temporary / f"{number:06d}.png")
                number += 1
    return written


@contextmanager
def _new_set(folder: Path) -> Iterator[Path]:
    """A folder for a new set of samples, which takes the place of `folder` once it is complete."""
    fixed = folder.is_symlink() or os.path.ismount(folder) or not os.access(folder.parent, os.W_OK)
    fixed = fixed or Path.cwd().is_relative_to(
        folder.resolve()
    )  # whoever stands in it would lose their place
    if not (folder.is_dir() and fixed):
        with new_folder(folder, replace=True, keep=lambda name: not NUMBERED.fullmatch(name)) as temporary:
            yield temporary
        return
    with writing(folder):  # a folder that cannot be renamed
        for earlier in folder.iterdir():
            if NUMBERED.fullmatch(earlier.name):
                earlier.unlink()
        yield folder
