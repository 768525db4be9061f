"""Training and distillation: exact maps, the same draws for both calls, gradients of one call only."""

import math

import pytest
import torch
from consistency_parts import (
    SHAPE,
    Estimates,
    Formula,
    Masks,
    batch,
    create,
    edm,
    end_of_trajectory,
    loss,
    objective,
    posterior_mean,
    step,
)
from torch import nn

from toolkit import NoiseSchedule, RecipeError, Sampler, Start
from toolkit_consistency.denoiser import ConsistencyPreconditioned
from toolkit_consistency.objective import pseudo_huber

C = 0.00054 * math.sqrt(math.prod(SHAPE))
BOTH = pytest.mark.parametrize("name", ["training", "distillation"])


def test_the_distance_is_pseudo_huber_at_both_ends_and_between() -> None:
    x, zero = torch.tensor([[3.0, 4.0], [3e-6, 4e-6], [0.3, 0.4]]), torch.zeros(3, 2)
    small = 5e-6**2 / (2 * 0.1)
    assert pseudo_huber(x, zero, 0.1).tolist() == pytest.approx(
        [math.sqrt(25.01) - 0.1, small, math.sqrt(0.26) - 0.1], rel=1e-5
    )


@BOTH
def test_the_loss_and_its_gradient_are_the_published_formula(name: str) -> None:
    """Two levels, so that all rows have the same pair; the answer is a (2 x), the teacher's x_0 is 0."""
    path = edm(sigma_min=20.0)
    student, teacher = Estimates(path, lambda x, sigma: 2 * x), Estimates(path, lambda x, sigma: 0 * x)
    teachers = {} if name == "training" else {"teacher": teacher}
    found = loss(objective(name, path, discretization=2), step(denoiser=student, **teachers))
    found.backward()
    (x_s, s, _), (x_t, t, _) = student.seen
    assert s.unique().tolist() == pytest.approx([20.0]) and t.unique().tolist() == [80.0]
    if name == "training":
        x0 = batch().images
        assert torch.allclose((x_s - x0) / 20, (x_t - x0) / 80, atol=1e-5)  # the same noise
    else:
        assert torch.allclose(x_s, x_t / 4, rtol=1e-5)  # straight towards 0
        assert torch.equal(teacher.seen[0][0], x_t) and len(teacher.seen) == 2

    a = torch.ones((), requires_grad=True)
    square = (a * 2 * x_t - 2 * x_s).square().flatten(1).sum(1)
    expected = (((square + C**2).sqrt() - C) / (t - s)).mean()
    expected.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(student.a.grad) == pytest.approx(float(a.grad), rel=1e-5)  # type: ignore[arg-type]
    assert teacher.a.grad is None


def test_distilled_from_an_exact_teacher_an_exact_map_has_the_error_of_heun_alone() -> None:
    path = edm()
    teacher = Estimates(path, posterior_mean)

    @torch.no_grad()
    def cost(formula: Formula, levels: int) -> float:
        one = objective("distillation", path, discretization=levels, huber_c=1e-9)
        return float(loss(one, step(denoiser=Estimates(path, formula), teacher=teacher), batch(1000)))

    costs = [cost(end_of_trajectory, levels) for levels in (20, 40, 80)]
    assert costs[0] > 3 * costs[1] > 9 * costs[2]  # by 4 for each doubling, in the limit
    assert cost(posterior_mean, 80) > 50 * costs[2]


def test_trained_without_a_teacher_an_exact_map_has_a_gradient_that_vanishes_as_levels_grow() -> None:
    """Theorem 2 of Song et al. (2023), for a squared distance, which a large c leads to."""
    path = edm()

    def slope(formula: Formula, levels: int) -> float:
        one = objective("training", path, discretization=levels, huber_c=1e4, mean=0.0, std=0.5)
        network = Estimates(path, formula)
        loss(one, step(denoiser=network), batch(50_000)).backward()
        assert network.a.grad is not None
        return abs(float(network.a.grad))

    slopes = [slope(end_of_trajectory, levels) for levels in (20, 40, 80)]
    assert slopes[0] > 1.8 * slopes[1] > 1.8**2 * slopes[2]  # by 2 for each doubling, in the limit
    assert slope(posterior_mean, 80) > 10 * slopes[2]


@BOTH
def test_both_calls_see_the_same_dropout_mask_and_the_next_step_another(name: str) -> None:
    path = edm()
    inner = Masks(path)
    networks: dict[str, nn.Module] = {"denoiser": ConsistencyPreconditioned(path, inner)}
    if name == "distillation":
        networks["teacher"] = Estimates(path, posterior_mean)
    one = objective(name, path, discretization=5)
    (turn,) = one.turns()
    torch.manual_seed(0)
    for _ in range(2):
        turn.loss(batch(), step(**networks))
    first, second, third, fourth = inner.seen
    assert torch.equal(first, second) and torch.equal(third, fourth) and not torch.equal(first, third)


def test_the_number_of_levels_follows_its_schedule() -> None:
    path = edm()
    one = objective("training", path, discretization={"type": "doubling", "start": 2, "end": 8, "steps": 30})
    (turn,) = one.turns()
    network = Estimates(path, posterior_mean)
    logs = [turn.loss(batch(), step(number, denoiser=network)).logs for number in (0, 10, 20, 99)]
    assert [float(log["levels"]) for log in logs] == [3, 5, 9, 9]


def test_an_average_answers_at_the_lower_level_if_asked_to() -> None:
    path = edm()
    student, average, teacher = (Estimates(path, posterior_mean) for _ in range(3))
    one = objective("distillation", path, target="ema")
    loss(one, step(average=average, denoiser=student, teacher=teacher))
    assert [len(network.seen) for network in (student, average)] == [1, 1]
    with pytest.raises(RecipeError, match=r"needs a section \[ema.denoiser\]"):
        loss(one, step(denoiser=student, teacher=teacher))


def test_labels_reach_every_call_and_networks_that_know_other_labels_are_refused() -> None:
    path = edm()
    student, teacher = Estimates(path, posterior_mean), Estimates(path, posterior_mean)
    given, distillation = batch(), objective("distillation", path)
    loss(distillation, step(denoiser=student, teacher=teacher), given)
    assert all(label is given.labels for _, _, label in student.seen + teacher.seen)
    student.conditional = True
    with pytest.raises(RecipeError, match="must both be conditional, or neither"):
        loss(distillation, step(denoiser=student, teacher=teacher))
    student.null_class = True
    with pytest.raises(RecipeError, match="a consistency model never learns that class"):
        loss(objective("training", path, discretization=5), step(denoiser=student))


@pytest.mark.parametrize("kind", ["ancestral", "ddim", "euler", "heun", "dpm_solver", "consistency"])
def test_only_jumping_to_the_data_and_back_is_a_way_to_sample(kind: str) -> None:
    path = edm()
    one, sampler, start = (
        objective("distillation", path),
        create(Sampler, path, type=kind),
        create(Start, path, type="noise"),
    )
    if kind == "consistency":
        one.refuse_sampling(sampler, start)
        return
    with pytest.raises(RecipeError, match=r"jumps to the data.*set \[sampler\] type = \"consistency\""):
        one.refuse_sampling(sampler, start)


def test_options_that_mean_nothing_are_refused() -> None:
    other = create(NoiseSchedule, type="rectified_flow")
    with pytest.raises(RecipeError, match="for a schedule whose time is sigma"):
        objective("distillation", other)
    with pytest.raises(RecipeError, match="needs 'discretization'"):
        objective("training", edm())
    with pytest.raises(
        RecipeError, match="'discretization' must be a whole number of at least 2, or a table"
    ):
        objective("training", edm(), discretization=1)
