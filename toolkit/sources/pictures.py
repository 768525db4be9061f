"""Decode pictures into uint8 tensors of one shape."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from toolkit.data.source import UnreadableImages
from toolkit.errors import DataError
from toolkit.files import opened
from toolkit.registry.signature import Positive

if TYPE_CHECKING:  # Pillow is imported where it is used: listing components must stay fast
    from PIL.Image import Image

Fit = Literal["crop", "pad", "resize"]
Channels = Literal[1, 3]
Size = Positive | tuple[Positive, Positive]  # of both sides, or height and width
Encoded = tuple[str, BinaryIO | Path]  # how an error names the picture, and where its bytes are
Remarks = defaultdict[str, set[str]]  # what of a picture is not used -> the names of such pictures

# The only decoders that are tried: Pillow has others, one of which hands the file to Ghostscript.
FORMATS = {
    "AVIF": (".avif",), "BMP": (".bmp",), "GIF": (".gif",), "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "PNG": (".apng", ".png"), "PPM": (".pbm", ".pgm", ".pnm", ".ppm"), "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}  # fmt: skip
SUFFIXES = tuple(sorted(suffix for suffixes in FORMATS.values() for suffix in suffixes))

GREYSCALE = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of one channel


@dataclass(frozen=True)
class Canvas:
    """The one shape that all pictures of a set are brought to.

    Grey pictures on a coloured canvas repeat their channel. Transparent ones are laid on black.
    """

    channels: Channels
    height: int
    width: int
    fit: Fit | None  # None: pictures must have this size already
    reduces: bool  # colour may be reduced to grey, because the user asked for one channel

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.height, self.width)

    def check(self, image: "Image", name: str) -> None:
        """Raise DataError if the picture, of which only the header is needed, does not fit the canvas."""
        if image.mode == "F":
            raise DataError(f"{name} has floating-point pixels; only integer ones have a known range.")
        if self.channels == 1 and not self.reduces and image.mode not in GREYSCALE:
            raise DataError(
                f"{name} is in colour ({image.mode}), but the first image is greyscale: "
                "set channels = 3 to keep colour, or channels = 1 to drop it."
            )
        if self.fit is None and image.size != (self.width, self.height):
            raise DataError(
                f"{name} has {image.width}x{image.height} pixels, but the first image "
                f"{self.width}x{self.height}: set size (and fit) to bring all images to one size."
            )

    def draw(self, image: "Image", name: str) -> Tensor:
        """The picture as uint8 (C, H, W); DataError if it does not fit, or memory does not suffice."""
        from PIL import Image, ImageOps

        self.check(image, name)
        image = _opaque(image).convert("L" if self.channels == 1 else "RGB")
        size = (self.width, self.height)
        # Pillow's resampling widens its filter when it shrinks: antialiased, unlike torch's default.
        try:
            if self.fit == "resize":
                image = image.resize(size, Image.Resampling.LANCZOS)
            elif self.fit == "crop":
                image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
            elif self.fit == "pad":
                if image.width > self.width or image.height > self.height:
                    image = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
                image = ImageOps.expand(image, _borders(image.size, size))
        except MemoryError as error:
            raise DataError(
                f"{name} cannot be brought to {size}: that needs more memory than there is."
            ) from error
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if self.channels == 1 else pixels.permute(2, 0, 1)


def _opaque(image: "Image") -> "Image":
    """The picture with 8 bits a channel, on black where it is transparent."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
        return Image.fromarray(np.rint(np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image.convert("RGBA"))


def _borders(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom; the odd pixel goes to the right and the bottom."""
    left, top = ((o - i) // 2 for i, o in zip(inner, outer, strict=True))
    return left, top, outer[0] - inner[0] - left, outer[1] - inner[1] - top


def height_and_width(size: Size) -> tuple[int, int]:
    """Both sides in pixels."""
    return size if isinstance(size, tuple) else (size, size)


def canvas_for(pictures: Iterable[Encoded], size: Size | None, fit: Fit, channels: Channels | None) -> Canvas:
    """The canvas that the options ask for; what they leave open, the first readable picture decides.

    Raises:
        UnreadableImages: if none can be read.
    """
    _, image = next(opened_pictures(pictures, decoded=False))
    detected: Channels = 1 if image.mode in GREYSCALE else 3
    height, width = (image.height, image.width) if size is None else height_and_width(size)
    return Canvas(
        channels=channels or detected,
        height=height,
        width=width,
        fit=None if size is None else fit,
        reduces=channels is not None,
    )


def decode(pictures: Iterable[Encoded], canvas: Canvas, remarks: Remarks | None = None) -> Tensor:
    """The pictures as uint8 (n, C, H, W); adds to `remarks` what of them is not used.

    Raises:
        UnreadableImages: with the names of all that cannot be read.
        DataError: if one does not fit the canvas.
    """
    drawn = [
        canvas.draw(image, name) for name, image in opened_pictures(pictures, decoded=True, remarks=remarks)
    ]
    return torch.stack(drawn)


def check(pictures: Iterable[Encoded], canvas: Canvas, remarks: Remarks | None = None) -> None:
    """Raise DataError if pictures cannot be opened or do not fit the canvas; only headers are read."""
    for name, image in opened_pictures(pictures, decoded=False, remarks=remarks):
        canvas.check(image, name)


def opened_pictures(
    pictures: Iterable[Encoded], *, decoded: bool, remarks: Remarks | None = None
) -> Iterator[tuple[str, "Image"]]:
    """The readable pictures, upright; then UnreadableImages if there were others."""
    from PIL import ExifTags, ImageOps

    unreadable: list[str] = []
    for name, file in pictures:
        with ExitStack() as files:
            try:
                image = _open(files.enter_context(opened(file)) if isinstance(file, Path) else file)
                if remarks is not None:
                    for remark in _unused(image):
                        remarks[remark].add(name)
                # Cameras store pictures on their side. Asking a PNG without EXIF for it would decode all.
                if "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                    image = ImageOps.exif_transpose(image)
                if decoded:
                    image.load()
            # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error, ...
            except Exception as error:
                unreadable.append(f"{name} ({_reason(error)})")
                continue
            yield name, image
    if unreadable:
        raise UnreadableImages(unreadable)


def _open(file: BinaryIO) -> "Image":
    """The picture in a file, by the decoders of `FORMATS` alone."""
    from PIL import Image

    file.seek(0)
    if not file.read(1):
        raise OSError("empty")
    file.seek(0)
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _reason(error: Exception) -> str:
    """Why a picture cannot be read, in the words of Pillow or of the system, without the file's name."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # it shows the file as an object in Python
        return f"not a picture in {', '.join(FORMATS)}"
    system = error.strerror if isinstance(error, OSError) else None
    return " ".join((system or str(error) or type(error).__name__).split())


def _unused(image: "Image") -> Iterator[str]:
    """What of a picture is not used, by its header."""
    if getattr(image, "is_animated", False):
        yield "several frames, only the first is used"
    bands = getattr(image, "tag_v2", {}).get(277, 1)  # TIFF's SamplesPerPixel
    if bands > len(image.getbands()):
        yield "several bands, only the first are used"


def size_and_time(file: Path) -> tuple[int, int]:
    """Bytes in a file, and nanoseconds when it was changed; zeros if it cannot be looked at."""
    try:
        status = file.stat()
    except OSError:  # reading it says why
        return 0, 0
    return status.st_size, status.st_mtime_ns
