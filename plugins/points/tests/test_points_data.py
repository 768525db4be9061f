import pytest
import torch

from toolkit_points.data import Gaussians25


def read(source):
    return source.read(torch.arange(len(source)))[0]


def test_points_are_25_equal_gaussians_of_the_stated_width():
    points, labels = Gaussians25(50_000).read(torch.arange(50_000))
    modes = points.round()
    _, counts = modes.unique(dim=0, return_counts=True)
    assert labels is None and points.dtype == torch.float32
    assert len(counts) == 25 and (counts / 2000 - 1).abs().max() < 0.1
    assert (points - modes).std(dim=0).tolist() == pytest.approx([0.05, 0.05], rel=0.02)


def test_held_out_points_are_others():
    source = Gaussians25(1000)
    held_out = source.held_out()
    assert len(held_out) == 100
    assert not set(map(tuple, read(source).tolist())) & set(map(tuple, read(held_out).tolist()))


def test_examples_depend_on_the_seed_and_on_nothing_else():
    one, again, other = (read(Gaussians25(length=200, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
