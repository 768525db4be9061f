import pytest
import torch

from toolkit import DataSource
from toolkit.registry import load as plugins
from toolkit.sources.digits import Digits
from toolkit_ddgan.data import StackedDigits
from toolkit_points.data import Gaussians25

INDICES = torch.arange(200)


def contents(source):
    """All examples of a source, in a form that can be looked up."""
    return [example.numpy().tobytes() for example in source.read(torch.arange(len(source)))[0]]


def test_a_stacked_picture_shows_the_three_digits_of_its_class():
    digits = Digits()
    stacked = StackedDigits(digits, length=200)
    images, labels = stacked.read(INDICES)
    assert images.shape == (200, 3, 8, 8) and images.dtype == torch.uint8
    assert (stacked.num_classes, len(stacked)) == (1000, 200)
    known = dict(zip(contents(digits), digits.labels.tolist(), strict=True))
    for image, label in zip(images, labels, strict=True):
        red, green, blue = (known[channel.numpy().tobytes()] for channel in image)
        assert label == 100 * red + 10 * green + blue


def test_the_channels_of_a_stacked_picture_are_independent():
    _, labels = StackedDigits(Digits(), length=120_000).read(torch.arange(120_000))
    assert len(labels.unique()) == 1000
    digits = torch.stack([labels // 100, labels // 10 % 10, labels % 10]).double()
    assert (digits.corrcoef() - torch.eye(3)).abs().max() < 0.02


def test_each_channel_shows_every_digit_once_before_any_again():
    """As DDGAN's authors draw StackedMNIST: two permutations of the digits in each channel."""
    digits = Digits()
    n, known = len(digits), contents(digits)
    images, _ = StackedDigits(digits, length=2 * n + 3).read(torch.arange(2 * n + 3))
    for channel in images.unbind(1):
        shown = [image.numpy().tobytes() for image in channel]
        assert (
            sorted(shown[:n]) == sorted(shown[n : 2 * n]) == sorted(known) and shown[:n] != shown[n : 2 * n]
        )
    assert not torch.equal(images[:, 0], images[:, 1])


def test_examples_depend_on_the_seed_and_on_nothing_else():
    one, again, other = (StackedDigits(Digits(), 200, seed=seed).read(INDICES)[0] for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_held_out_pictures_are_made_of_held_out_digits():
    digits = Digits()
    held_out = StackedDigits(digits, length=200).held_out()
    trained = set(contents(digits))
    assert len(held_out) == len(digits.held_out()) and held_out.held_out() is None
    images, _ = held_out.read(INDICES)
    assert not any(channel.numpy().tobytes() in trained for image in images for channel in image)


def test_only_labelled_pictures_of_one_channel_are_stacked():
    with pytest.raises(ValueError, match="must be labelled"):
        StackedDigits(Gaussians25(100))
    with pytest.raises(ValueError, match=r"not data of shape \(3, 8, 8\)"):
        StackedDigits(StackedDigits(Digits(), length=10))


def test_a_recipe_nests_the_source_of_the_digits():
    table = {"type": "stacked_mnist", "length": 50, "source": {"type": "digits", "size": 12, "fit": "pad"}}
    source = plugins.load().registry.create(DataSource, table, supplied={}, where=str)
    assert source.image_shape == (3, 12, 12) and len(source) == 50
