"""FID, IS, KID, precision and recall: torch-fidelity's numbers on our features, the right way round."""

import pytest
import torch
from feature_sets import Projection
from fidelity_reference import noise, vectors

from toolkit import Metric, RecipeError, RunError, Score, Subject
from toolkit.evaluation.comparison import Comparison
from toolkit.registry import load as plugins
from toolkit_fidelity.frechet import FID, FIDInfinity
from toolkit_fidelity.inception_score import IS
from toolkit_fidelity.kid import KID
from toolkit_fidelity.memorisation import Memorisation
from toolkit_fidelity.neighbours import Coverage, Density, Precision, Recall


def value(metric: Metric, subject: Subject, name: str) -> float:
    score: Score = metric.measure(subject)
    return score.values[name]


def test_scores_equal_those_of_torch_fidelity(subject) -> None:
    theirs = vectors()["scores"]
    ours = subject(noise(303, 0, 0.8), noise(400, 1))
    assert value(FID(), ours, "fid_projection") == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-6
    )
    kid = KID(subset_size=100).measure(ours).values
    assert kid["kid_projection"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert kid["kid_projection_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-5)
    scores = IS().measure(ours).values
    assert scores["is_projection"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert scores["is_projection_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-6)
    assert value(Precision(), ours, "precision_projection") == pytest.approx(theirs["precision"])
    assert value(Recall(), ours, "recall_projection") == pytest.approx(theirs["recall"])


def test_a_set_scored_against_itself_is_perfect(subject) -> None:
    same = subject(noise(300, 0), noise(300, 0))
    assert abs(value(FID(), same, "fid_projection")) < 1e-3
    assert value(Precision(), same, "precision_projection") == value(Recall(), same, "recall_projection") == 1


def test_a_collapsed_generator_has_precision_but_no_recall(subject) -> None:
    real = noise(300, 0)
    jitter = torch.randint(2, (300, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    collapsed = subject((real[:1].int() + jitter).clamp(max=255).to(torch.uint8), real)
    assert value(Precision(), collapsed, "precision_projection") == 1
    assert value(Recall(), collapsed, "recall_projection") < 0.02


def test_features_are_found_again_by_content_and_extractor_not_by_name(subject) -> None:
    generated, real, first = noise(60, 0), noise(60, 1), Projection()
    subject(generated, real, first).features()
    assert first.seen == 120
    again = Projection()
    subject(generated, real, again).features()
    assert again.seen == 0
    changed = generated.clone()
    changed[7, 0, 0, 0] ^= 1
    subject(changed, real, again).features()
    assert again.seen == 60  # the changed set alone
    other = Projection(seed=1)
    subject(generated, real, other).features()
    assert other.seen == 120


@pytest.mark.parametrize(
    "metric",
    [FID(), FIDInfinity(), IS(), KID(), Precision(), Recall(), Density(), Coverage(), Memorisation()],
    ids=lambda m: type(m).__name__,
)
def test_without_an_extractor_the_flag_that_names_one_is_asked_for(metric: Metric, subject) -> None:
    bare = subject(noise(20, 0), noise(20, 1))
    comparison = Comparison(**{**vars(bare.comparison), "extractor": None})
    with pytest.raises(RunError, match="state --features"):
        metric.measure(Subject(None, bare.source, bare.progress, comparison))


def test_too_few_images_are_refused_in_words(subject) -> None:
    few = subject(noise(3, 0), noise(20, 1))
    with pytest.raises(RunError, match="3 images have no 3-th neighbours"):
        Precision().measure(few)
    with pytest.raises(RunError, match="cannot be split into 10 parts"):
        IS().measure(few)


@pytest.mark.parametrize(("n", "warned"), [(16, True), (17, False)])
def test_a_distance_of_fewer_images_than_features_comes_with_a_warning(subject, n: int, warned: bool) -> None:
    """n images span n - 1 directions about their mean, and the projections are 16."""
    score = FID().measure(subject(noise(n, 0), noise(40, 1)))
    said = ["FID of 16 images by 16 features: too few, a covariance is singular and the distance too high"]
    assert list(score.notes) == (said if warned else [])


def test_smaller_subsets_than_were_asked_for_are_said(subject) -> None:
    few = KID().measure(subject(noise(30, 0), noise(40, 1)))
    assert list(few.notes) == ["KID of subsets of 30 images: there are no more"]
    assert list(KID(subset_size=30).measure(subject(noise(30, 0), noise(40, 1))).notes) == []


def test_one_image_has_no_distribution(subject) -> None:
    for metric in (FID(), KID()):
        with pytest.raises(RunError, match="two images"):
            metric.measure(subject(noise(1, 0), noise(20, 1)))


@pytest.mark.parametrize(("name", "option", "value"), [
    ("kid", "seed", -1), ("is", "seed", -1), ("is", "seed", 2**32), ("kid", "subset_size", 1)
])  # fmt: skip
def test_an_option_that_the_arithmetic_cannot_take_is_refused(name: str, option: str, value: int) -> None:
    with pytest.raises(RecipeError, match=option):
        plugins.load().registry.resolve(Metric, {"type": name, option: value})


def test_another_extractor_of_the_same_weights_finds_no_features_of_the_first(subject) -> None:
    generated, real, first, other = noise(60, 0), noise(60, 1), Projection(), Projection()
    other.name = "cropped"
    subject(generated, real, first).features()
    subject(generated, real, other).features()
    assert other.seen == 120
