"""Pictures of any kind come to one shape, and lose nothing that can be kept."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.errors import DataError
from toolkit.sources.pictures import Canvas, Channels, Encoded, Fit, canvas_for, check, decode


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> Encoded:
    file = BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return "a picture", file


def drawn(image: Image.Image, **options: object) -> torch.Tensor:
    """The picture on the canvas that it would itself decide, less what the options say."""
    wanted = {"size": None, "fit": "crop", "channels": None} | options
    return decode([encoded(image)], canvas_for([encoded(image)], **wanted))[0]  # type: ignore[arg-type]


def stripes(width: int, height: int) -> Image.Image:
    """Columns of 0 and 255 in turn: what is antialiased becomes grey, what is not stays extreme."""
    return Image.fromarray(np.tile(np.arange(width) % 2 * 255, (height, 1)).astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("I;16", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)]
)
def test_channels_are_kept(mode: str, channels: int):
    assert drawn(Image.new(mode, (6, 5))).shape == (channels, 5, 6)


def test_cmyk_becomes_rgb():
    picture = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    canvas = canvas_for([encoded(picture, "JPEG")], None, "crop", None)
    [red, green, blue] = decode([encoded(picture, "JPEG")], canvas)[0].float().mean((1, 2))
    assert red < 10 < 245 < green
    assert blue > 245


def test_sixteen_bits_are_scaled_and_not_clipped():
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert drawn(Image.fromarray(levels)).tolist() == [[[0, 1, 128, 255]]]


def test_transparent_pixels_are_black_whatever_colour_they_hide():
    picture = Image.new("RGBA", (2, 1), (200, 100, 50, 0))
    picture.putpixel((1, 0), (200, 100, 50, 255))
    assert drawn(picture)[:, 0].T.tolist() == [[0, 0, 0], [200, 100, 50]]


def test_pictures_that_cameras_stored_on_their_side_are_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    canvas = canvas_for([encoded(stripes(6, 4), "JPEG", exif=exif)], None, "crop", None)
    assert canvas.shape == (1, 6, 4)


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
@pytest.mark.parametrize("shape", [(28, 28), (40, 20), (7, 90), (32, 32)])
def test_every_fit_gives_the_size_that_was_asked_for(fit: Fit, shape: tuple[int, int]):
    assert drawn(stripes(*shape), size=32, fit=fit).shape == (1, 32, 32)


def test_padding_centres_the_untouched_picture_on_black():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8))
    padded = drawn(picture, size=32, fit="pad")[0]
    assert padded[2:30, 2:30].equal(torch.from_numpy(np.array(picture)))
    assert padded.sum() == padded[2:30, 2:30].sum()


def test_padding_shrinks_what_is_too_large_and_keeps_its_proportions():
    padded = drawn(Image.new("L", (60, 30), 255), size=20, fit="pad")[0]
    assert (padded > 0).nonzero().aminmax(dim=0).min.tolist() == [5, 0]
    assert (padded > 0).sum() == 20 * 10


def test_cropping_keeps_the_middle_of_the_long_side():
    picture = Image.new("L", (30, 10), 0)
    picture.paste(255, (10, 0, 20, 10))
    assert drawn(picture, size=10, fit="crop").eq(255).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
def test_shrinking_is_antialiased(fit: Fit):
    shrunk = drawn(stripes(64, 64), size=8, fit=fit).float()
    assert (shrunk - 127.5).abs().max() < 20


def test_a_grey_picture_on_a_coloured_canvas_repeats_its_channel():
    canvas = canvas_for([encoded(Image.new("RGB", (8, 8)))], None, "crop", None)
    grey = decode([encoded(stripes(8, 8))], canvas)[0]
    assert grey[0].equal(grey[1])
    assert grey[0].equal(grey[2])


def test_colour_is_not_dropped_unless_somebody_asks():
    grey, colour = encoded(stripes(8, 8)), encoded(Image.new("RGB", (8, 8)))
    with pytest.raises(DataError, match="is in colour .*: set channels = 3 to keep colour, or channels = 1"):
        check([colour], canvas_for([grey], None, "crop", None))
    assert drawn(Image.new("RGB", (8, 8)), channels=1).shape == (1, 8, 8)


def test_pictures_of_several_sizes_need_a_size():
    canvas = canvas_for([encoded(stripes(8, 8))], None, "crop", None)
    with pytest.raises(DataError, match="has 9x8 pixels, but the first image 8x8: set size"):
        check([encoded(stripes(9, 8))], canvas)


def test_floating_point_pixels_are_refused():
    picture = Image.fromarray(np.zeros((4, 4), dtype=np.float32))
    canvas = Canvas(channels=1, height=4, width=4, fit=None, reduces=False)
    with pytest.raises(DataError, match="floating-point pixels"):
        decode([encoded(picture, "TIFF")], canvas)


@pytest.mark.parametrize("channels", [1, 3])
def test_stated_channels_overrule_the_first_picture(channels: Channels):
    assert drawn(Image.new("RGB", (4, 4)), channels=channels).shape[0] == channels
    assert drawn(Image.new("L", (4, 4)), channels=channels).shape[0] == channels
