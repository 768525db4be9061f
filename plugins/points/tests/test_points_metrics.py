"""Metrics of points: closed forms, and scores through the command line."""

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from toolkit import DataSource, RunError, Subject
from toolkit.cli import main
from toolkit.evaluation.comparison import Comparison, EvaluationOptions, Share
from toolkit_points.distance import sliced_wasserstein, wasserstein_power
from toolkit_points.grid import Grid
from toolkit_points.metrics import Modes25, SlicedWasserstein


class Given(DataSource):
    """Given points or pictures."""

    num_classes = None

    def __init__(self, examples: Tensor) -> None:
        self.examples, self.image_shape = examples, tuple(examples.shape[1:])

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.examples[indices], None


def subject(generated: Tensor, real: Tensor) -> Subject:
    comparison = Comparison(
        Given(generated), "", Given(real), EvaluationOptions(num=len(generated)), None, torch.device("cpu"),
        Path("samples"), lambda *told: None, Share(), Path("cache"),
    )  # fmt: skip
    return Subject(None, Given(real), lambda done, total: None, comparison)


def gaussians(n: int, seed: int = 0, std: float = 0.05) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    modes = torch.randint(-2, 3, (n, 2), generator=generator)
    return modes + std * torch.randn(n, 2, generator=generator)


def test_the_data_itself_has_all_modes_and_the_precision_of_a_gaussian() -> None:
    """The distance of a Gaussian point in the plane is a Rayleigh variable: 1 - exp(-9 / 2) are within 3."""
    found = Modes25().measure(subject(gaussians(20_000), gaussians(10))).values
    assert found["modes"] == 25
    assert found["precise"] == pytest.approx(1 - math.exp(-4.5), abs=0.002)
    assert found["spread"] == pytest.approx(0.05, rel=0.04)


def test_a_mode_counts_from_a_share_of_all_samples_on() -> None:
    rare = torch.cat([torch.zeros(981, 2), torch.ones(19, 2)])  # 1.9 %
    many = [Grid().judge(rare, needed=share).modes for share in (0.019, 0.0191)]
    assert many == [2, 1]


def test_samples_between_modes_and_beyond_the_grid_are_of_none() -> None:
    points = torch.tensor([[0.5, 0.0], [3.0, 2.0], [2.0, 2.14], [2.0, 2.16], [-2.0, -2.0]])
    found = Grid().judge(points)
    assert (found.modes, found.precise) == (2, pytest.approx(2 / 5))
    nothing = Grid().judge(points[:2])
    assert nothing.modes == 0 and math.isnan(nothing.spread)
    assert Modes25().measure(subject(points[:2], points)).values == {"modes": 0, "precise": 0}


@pytest.mark.parametrize("side", [2, 3])
def test_another_grid_is_centred_too(side: int) -> None:
    axis = (torch.arange(side) - (side - 1) / 2) * 2.5
    points = torch.cartesian_prod(axis, axis)
    assert Grid(side, spacing=2.5, std=0.01).judge(points).modes == side**2


def test_only_points_in_a_plane_have_modes_on_a_grid() -> None:
    with pytest.raises(RunError, match=r"counts points in a plane, not examples of shape \(3,\)"):
        Modes25().measure(subject(torch.zeros(5, 3), torch.zeros(5, 3)))


@pytest.mark.parametrize("p", [1, 2])
def test_in_one_dimension_it_is_the_distance_of_sorted_values(p: int) -> None:
    x, y = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    sorted_apart = (x.sort().values - y.sort().values).abs()
    assert sliced_wasserstein(x[:, None], y[:, None], 4, p, 0) == pytest.approx(
        float((sorted_apart**p).mean() ** (1 / p)), rel=1e-5
    )


def test_sets_of_two_sizes_are_compared_exactly() -> None:
    """Whoever repeats each value so often that the sizes agree finds the same; 0, 1 to 0, 0, 3 by hand."""
    x, y = torch.randn(6, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, -1.0, 2.0, 0.5])
    repeated = wasserstein_power(x.repeat_interleave(2), y.repeat_interleave(3), 2)
    assert torch.allclose(wasserstein_power(x, y, 2), repeated)
    by_hand = wasserstein_power(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 0.0, 0.0]), 1)
    assert float(by_hand) == pytest.approx(1 / 6 * 1 + 1 / 3 * 2)


@pytest.mark.parametrize("d", [2, 5])
def test_a_shift_is_as_long_as_it_looks_from_a_random_direction(d: int) -> None:
    """The mean square of a unit vector's shadow is 1/d."""
    x = torch.randn(200, d, generator=torch.Generator().manual_seed(0))
    shift = torch.zeros(d)
    shift[0] = 3.0
    found = sliced_wasserstein(x, x + shift, 4000, 2, 0)
    assert found == pytest.approx(3 / math.sqrt(d), rel=0.03)


def test_pictures_are_compared_by_their_values_and_directions_are_seeded() -> None:
    black, white = (torch.full((7, 1, 2, 2), level, dtype=torch.uint8) for level in (0, 255))
    values = [SlicedWasserstein(500, seed=s).measure(subject(black, white)).values for s in (0, 0, 1)]
    first, again, other = (value["sliced_wasserstein"] for value in values)
    assert first == again != other
    assert first == pytest.approx(2, rel=0.1)  # a shift by 4, whose shadow is 4 / sqrt(4)


RECIPE = """
[run]
batch_size = 64
steps = 2
[data]
type = "gaussians25"
length = 2000
[schedule]
type = "linear"
num_train_timesteps = 4
beta_start = 0.1
beta_end = 0.9
[networks.denoiser]
type = "ddpm_mlp"
width = 8
layers = 1
[objective]
type = "denoising"
[optimizers.denoiser]
type = "adam"
lr = 1e-3
[samples]
num = 0
"""


def test_a_model_of_points_is_scored_through_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "points.toml").write_text(RECIPE)
    done = CliRunner().invoke(
        main, ["train", str(tmp_path / "points.toml"), f"--set=run.out={tmp_path / 'run'}"]
    )
    assert done.exit_code == 0, done.output
    flags = ["--metrics", "modes25,sliced_wasserstein", "--num", "600", "--device", "cpu"]
    done = CliRunner().invoke(main, ["evaluate", str(tmp_path / "run"), *flags])
    assert done.exit_code == 0, done.output
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "run" / "scores").glob("*.json"))]
    assert [score["metric"] for score in found] == ["modes25", "sliced_wasserstein"]
    assert found[0]["values"]["precise"] < 0.5 < found[1]["values"]["sliced_wasserstein"]  # untrained
    assert found[0]["protocol"]["generated"]["quantised"] is None
