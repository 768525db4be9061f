"""Density and coverage by hand and by their expectation; copies, which are memorised."""

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from toolkit import RunError, Subject
from toolkit.cli import main
from toolkit_fidelity.memorisation import Memorisation
from toolkit_fidelity.neighbours import Coverage, Density, Precision, Recall, distances


def line(*places: float) -> Tensor:
    return torch.tensor(places)[:, None]


def measured(metric: Density | Coverage | Precision | Recall, subject: Subject) -> float:
    (value,) = metric.measure(subject).values.values()
    return value


def test_density_and_coverage_of_points_on_a_line(subject) -> None:
    """k = 1. Real points at 0, 1, 3 and 10 reach 1, 1, 2 and 7: the open balls are (-1, 1), (0, 2), (1, 5)
    and (3, 17). Of the generated ones, 0.5 is in two of them, 4 in two and 20 in none; 3 of 4 have one."""
    pair = subject(line(0.5, 4, 20), line(0, 1, 3, 10))
    assert measured(Density(1), pair) == pytest.approx(4 / 3)
    assert measured(Coverage(1), pair) == pytest.approx(4 / 4)
    pair = subject(line(0.5, 0.6, 0.7), line(0, 1, 3, 10))
    assert measured(Density(1), pair) == pytest.approx(6 / 3)
    assert measured(Coverage(1), pair) == pytest.approx(2 / 4)
    # k = 2: the balls are (-3, 3), (-1, 3), (0, 6) and (1, 19); 0.5 is in three, 4 in two, 20 in none.
    assert measured(Density(2), subject(line(0.5, 4, 20), line(0, 1, 3, 10))) == pytest.approx(5 / (2 * 3))


def test_points_drawn_alike_have_the_expected_density_and_coverage(subject) -> None:
    """Naeem et al. 2020: 1, and 1 - (N-1)...(N-k) / (M+N-1)...(M+N-k), whatever the distribution."""
    n, m, k = 600, 400, 3
    draw = torch.Generator().manual_seed(0)
    pair = subject(torch.randn(m, 2, generator=draw), torch.randn(n, 2, generator=draw))
    assert measured(Coverage(k), pair) == pytest.approx(0.7854, abs=0.04)
    (note,) = Coverage(k).measure(pair).notes
    assert note == "coverage is 0.785 if 400 generated and 600 real images are drawn alike"
    assert measured(Density(k), pair) == pytest.approx(1, abs=0.1)


def test_one_outlier_of_the_generated_points_lifts_recall_but_not_coverage(subject) -> None:
    """The paper's reason for coverage: an outlier's neighbourhood is wide."""
    draw = torch.Generator().manual_seed(0)
    real = torch.randn(200, 2, generator=draw)
    collapsed = 0.01 * torch.randn(200, 2, generator=draw)
    outlier = torch.cat([collapsed, torch.tensor([[5.0, 0.0]])])
    assert measured(Recall(), subject(collapsed, real)) < 0.01
    assert measured(Recall(), subject(outlier, real)) > 0.4  # all that are within 5 of it
    assert measured(Coverage(), subject(outlier, real)) < 0.05


def test_copies_are_at_no_distance_and_others_at_their_own() -> None:
    draw = torch.Generator().manual_seed(0)
    a = 1000 + torch.randn(30, 500, generator=draw)
    (found,) = distances(a, a)
    expected = (a.double()[:, None] - a.double()[None]).square().sum(-1).sqrt()
    assert (found.diagonal() == 0).all()
    assert torch.allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("space", ["features", "pixels"])
def test_copies_are_memorised_and_new_draws_are_not(subject, space: str) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (300, 3, 4, 4), generator=draw).to(torch.uint8)
    training, new = pixels.split(200)
    copies = (training[:25].int() + 1).clamp(max=255).to(torch.uint8)  # a shade brighter
    name = {"features": "projection", "pixels": "pixels"}[space]
    metric = Memorisation(space)

    fresh = metric.measure(subject(new, training)).values
    assert fresh[f"memorised_{name}"] < 0.05 and fresh[f"nearest_{name}"] == pytest.approx(1, abs=0.1)
    score = metric.measure(subject(torch.cat([new[:75], copies]), training))
    assert score.values[f"memorised_{name}"] == pytest.approx(0.25, abs=0.04)
    assert metric.measure(subject(training[:50], training)).values[f"nearest_{name}"] == 0
    # Eight rows, of the sample and its seven nearest, each enlarged from 4 to 64 pixels and 16 of gutter.
    assert score.picture is not None and score.picture.size == (8 * 80 + 16, 8 * 80 + 16)


def test_the_picture_begins_with_the_sample_most_like_a_copy_and_its_original(subject) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60, 1, 4, 4), generator=draw).to(torch.uint8)
    training, new = pixels.split(50)
    new[7] = training[31]
    picture = Memorisation("pixels", nearest=2).measure(subject(new, training)).picture
    assert picture is not None
    sample, original = (picture.crop((16 + i * 80, 16, 80 + i * 80, 80)) for i in (0, 1))
    expected = training[31, 0].repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert sample.tobytes() == original.tobytes() == bytes(expected.flatten().tolist())


def test_without_an_extractor_features_are_refused_before_anything_is_sampled(
    runs: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(runs / "ddpm", tmp_path / "run")
    done = CliRunner().invoke(main, ["evaluate", str(run), "--metrics", "memorisation", "--split", "train"])
    assert done.exit_code == 2 and "state --features" in done.stderr
    assert not (run / "scores").exists()


def test_memorisation_of_examples_that_were_not_trained_on_is_refused(subject) -> None:
    known = subject(line(0, 1), line(0, 1, 2))
    score = Memorisation().measure(known)
    assert score.picture is None and not score.notes  # they are no pictures
    other = Subject(None, known.source, known.progress, known.comparison, "held_out")
    with pytest.raises(RunError, match="by --split train"):
        Memorisation().measure(other)
    with pytest.raises(RunError, match="at least two training images"):
        Memorisation().measure(subject(line(0, 1), line(0)))
