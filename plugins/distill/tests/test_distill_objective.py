"""Distribution matching against closed forms: Gaussians, whose exact denoiser is known, on three paths."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from toolkit import (
    Batch,
    Denoiser,
    Loss,
    NoiseSchedule,
    Objective,
    Prediction,
    RecipeError,
    Step,
    load_plugins,
    testing,
)
from toolkit_distill.conformance import cases
from toolkit_distill.discriminator import DiffusedDiscriminator
from toolkit_distill.objective import DMD, matching_gradient

PATHS: Mapping[str, dict[str, Any]] = {
    "chain": {"type": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02},
    "rectified_flow": {"type": "rectified_flow"},
    "edm": {"type": "edm"},
}
MEAN, STD = 1.5, 0.3  # of the teacher's data


@testing.parametrize_with_checks(cases())
def test_conformance(case: testing.Case, check: testing.Check) -> None:
    check(case)


def path(name: str) -> NoiseSchedule:
    made: NoiseSchedule = create(NoiseSchedule, **PATHS[name])
    return made


def create(kind: type, schedule: NoiseSchedule | None = None, **table: Any) -> Any:
    supplied = {"schedule": schedule, "num_classes": None, "sample_shape": (1,)}
    return load_plugins().registry.create(kind, table, supplied=supplied, where=lambda path: "test")


def dmd(schedule: NoiseSchedule, **options: Any) -> DMD:
    made: DMD = create(Objective, schedule, type="dmd", **options)
    return made


class Gaussian(Denoiser):
    """Exact for data N(mean, std^2), which may be those of a student; remembers the times it was asked at."""

    def __init__(self, schedule: NoiseSchedule, source: "Affine") -> None:
        super().__init__()
        self.schedule, self.source, self.seen = (
            schedule,
            (source,),
            list[Tensor](),
        )  # no parameters of its own

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.seen.append(t)
        mean, std = self.source[0].mean.detach(), self.source[0].std.detach()
        alpha, sigma = self.schedule.at(t, x_t)
        gain = std**2 * alpha / (alpha**2 * std**2 + sigma**2)
        return Prediction(self.schedule, x_t, t, x0=mean + gain * (x_t - alpha * mean))


class Affine(Denoiser):
    """Draws mean + std z from z = x_t / prior_std; remembers what it was given."""

    def __init__(self, schedule: NoiseSchedule, mean: float, std: float) -> None:
        super().__init__()
        self.schedule, self.seen = schedule, list[tuple[Tensor, Tensor]]()
        self.mean, self.std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(std))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.seen.append((x_t, t))
        return Prediction(self.schedule, x_t, t, x0=self.mean + self.std * x_t / self.schedule.prior_std)


def gaussians(schedule: NoiseSchedule, mean: float = -1.0, std: float = 1.0) -> dict[str, Any]:
    """A student of this mean and deviation, its exact score, and a teacher of MEAN and STD."""
    student, data = Affine(schedule, mean, std), Affine(schedule, MEAN, STD)
    return {
        "student": student,
        "teacher": Gaussian(schedule, data),
        "fake_score": Gaussian(schedule, student),
    }


def take(
    objective: DMD, networks: dict[str, Any], turn: str, rows: int = 256, images: Tensor | None = None
) -> Loss:
    """The loss of a turn, whose gradients are those of all networks anew."""
    for network in networks.values():
        network.zero_grad()
    step = Step(0, 0, torch.device("cpu"), networks, networks, torch.enable_grad)
    batch = Batch(torch.zeros(rows, 1) if images is None else images, None, 0)
    loss = next(one for one in objective.turns() if one.name == turn).loss(batch, step)
    if loss.total.requires_grad:
        loss.total.backward()
    return loss


@pytest.mark.parametrize("name", PATHS)
def test_the_student_becomes_the_teachers_distribution(name: str) -> None:
    torch.manual_seed(0)
    schedule = path(name)
    networks, objective = gaussians(schedule), dmd(schedule)
    student = networks["student"]
    take(objective, networks, "student")
    assert student.mean.grad < 0  # up, to the teacher's
    for rate in (0.1, 0.02):
        optimizer = torch.optim.Adam(student.parameters(), lr=rate)
        for _ in range(100):
            take(objective, networks, "student")
            optimizer.step()
    assert (student.mean.item(), student.std.item()) == pytest.approx((MEAN, STD), abs=0.05)


@pytest.mark.parametrize("name", PATHS)
def test_nothing_is_learnt_where_fake_score_and_teacher_agree(name: str) -> None:
    schedule = path(name)
    networks = gaussians(schedule)
    loss = take(dmd(schedule), {**networks, "fake_score": networks["teacher"]}, "student")
    assert loss.total == loss.logs["gradient"] == 0
    assert networks["student"].mean.grad == networks["student"].std.grad == 0


def test_the_gradient_is_normalised_row_by_row_and_knows_no_unit() -> None:
    x, fake, teacher = torch.randn(3, 4, 2, 3)
    expected = torch.stack([(f - b) / (a - b).abs().mean() for a, f, b in zip(x, fake, teacher, strict=True)])
    assert torch.allclose(matching_gradient(x, fake, teacher), expected)
    assert torch.allclose(matching_gradient(10 * x, 10 * fake, 10 * teacher), expected, atol=1e-6)
    assert matching_gradient(x, x, x).abs().max() == 0  # and not 0 / 0


def test_the_loss_has_the_gradient_and_its_half_square() -> None:
    """Of the mean of a student: the mean over rows of what matching_gradient says."""
    torch.manual_seed(0)
    schedule = path("rectified_flow")
    networks, objective = gaussians(schedule), dmd(schedule)
    torch.manual_seed(1)
    loss = take(objective, networks, "student")
    torch.manual_seed(1)
    x = objective.generate(
        Batch(torch.zeros(256, 1), None, 0),
        Step(0, 0, torch.device("cpu"), networks, networks, torch.enable_grad),
    )
    t = objective.compared[torch.randint(len(objective.compared), (256,))]
    x_t = schedule.diffuse(x, t, torch.randn_like(x)).detach()
    gradient = matching_gradient(
        x.detach(), networks["fake_score"](x_t, t).x0, networks["teacher"](x_t, t).x0
    )
    assert loss.total.item() == pytest.approx(gradient.square().mean().item() / 2, rel=1e-5)
    assert networks["student"].mean.grad.item() == pytest.approx(gradient.mean().item(), rel=1e-4)


@pytest.mark.parametrize(("name", "low", "high"), [
    ("chain", 20, 979), ("rectified_flow", 0.02, 0.98), ("edm", 0.0035, 72.0),
])  # fmt: skip
def test_distributions_are_compared_between_2_and_98_percent_of_the_path(
    name: str, low: float, high: float
) -> None:
    torch.manual_seed(0)
    schedule = path(name)
    networks, objective = gaussians(schedule), dmd(schedule)
    take(objective, networks, "student", rows=20_000)
    (teacher,), (fake,) = networks["teacher"].seen, networks["fake_score"].seen
    assert torch.equal(teacher, fake)
    assert float(teacher.min()) == pytest.approx(low, rel=0.1) and float(teacher.max()) == pytest.approx(
        high, rel=0.1
    )
    if name == "chain":
        assert (int(teacher.min()), int(teacher.max()), len(teacher.unique())) == (20, 979, 960)


def test_a_short_chain_is_compared_at_all_its_times() -> None:
    assert dmd(create(NoiseSchedule, type="vp_sde", num_train_timesteps=4)).compared.tolist() == [0, 1, 2, 3]


def test_the_fake_score_is_trained_more_often_and_on_samples_of_the_student() -> None:
    torch.manual_seed(0)
    schedule = path("rectified_flow")
    networks, objective = gaussians(schedule), dmd(schedule, loss={"type": "squared_error", "target": "x0"})
    assert [(turn.name, turn.times) for turn in objective.turns()] == [("fake_score", 5), ("student", 1)]
    loss = take(objective, networks, "fake_score", rows=50_000)
    t = torch.linspace(0.02, 0.98, 2001, dtype=torch.float64)
    least = (t**2 / ((1 - t) ** 2 + t**2)).mean()  # of the exact denoiser of N(-1, 1): its posterior variance
    assert loss.total.item() == pytest.approx(float(least), rel=0.03)
    assert networks["student"].mean.grad is None


@pytest.mark.parametrize(("name", "times"), [("chain", [999, 400]), ("rectified_flow", [1.0, 0.4])])
def test_a_student_of_several_calls_is_trained_on_what_it_will_be_given(
    name: str, times: list[float]
) -> None:
    torch.manual_seed(0)
    schedule = path(name)
    networks, objective = gaussians(schedule, MEAN, STD), dmd(schedule, times=times)
    take(objective, networks, "student", rows=20_000)
    (first, at_first), (last, at_last) = networks["student"].seen
    assert bool((at_first == times[0]).all()) and first.std().item() == pytest.approx(1, abs=0.03)
    later = at_last == at_last.min()
    assert float(at_last.min()) == pytest.approx(times[1]) and later.float().mean().item() == pytest.approx(
        0.5, abs=0.02
    )
    assert torch.equal(last[~later], first[~later])
    alpha, sigma = (float(scale) for scale in schedule.at(times[1], last))
    expected = (alpha * MEAN, math.hypot(alpha * STD, sigma))
    assert (last[later].mean().item(), last[later].std().item()) == pytest.approx(expected, abs=0.03)


def test_labels_reach_every_network() -> None:
    schedule, labels = path("rectified_flow"), torch.arange(8) % 3
    networks: dict[str, Any] = {role: Labelled(schedule) for role in ("student", "teacher", "fake_score")}
    objective = dmd(schedule)
    step = Step(0, 0, torch.device("cpu"), networks, networks, torch.enable_grad)
    for turn in objective.turns():
        turn.loss(Batch(torch.zeros(8, 1), labels, 0), step)
    seen = [label for network in networks.values() for label in network.seen]
    assert len(seen) == 5 and all(torch.equal(label, labels) for label in seen)  # two calls, then three


class Labelled(Denoiser):
    """Remembers which classes it was asked for."""

    conditional = True

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule, self.seen = schedule, list[Tensor | None]()

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.seen.append(label)
        return Prediction(self.schedule, x_t, t, x0=x_t)


class Even(DiffusedDiscriminator):
    """Says by how much x_t is above a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold, self.seen = nn.Parameter(torch.tensor(0.1)), list[tuple[Tensor, Tensor]]()

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append((x_t, t))
        return x_t.squeeze(1) - self.threshold


def test_a_discriminator_sees_diffused_data_and_samples_at_the_same_times() -> None:
    torch.manual_seed(0)
    schedule = path("rectified_flow")
    networks, objective = gaussians(schedule, -1.0, 0.0), dmd(schedule, adversarial_weight=0.5)
    judge = networks["discriminator"] = Even()
    assert [turn.name for turn in objective.turns()] == ["fake_score", "discriminator", "student"]
    loss = take(objective, networks, "discriminator", rows=4000, images=torch.ones(4000, 1))
    (real, at_real), (fake, at_fake) = judge.seen
    assert torch.equal(at_real, at_fake) and networks["student"].mean.grad is None
    for seen, mean in ((real, 1.0), (fake, -1.0)):
        noise = (seen - (1 - at_real[:, None]) * mean) / at_real[:, None]
        assert noise.mean().item() == pytest.approx(0, abs=0.05) and noise.std().item() == pytest.approx(
            1, abs=0.05
        )
    expected = softplus(0.1 - real).mean() + softplus(fake - 0.1).mean()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)

    agreeing = {**networks, "fake_score": networks["teacher"]}
    loss = take(objective, agreeing, "student", images=torch.ones(256, 1))
    (generated, t) = judge.seen[-1]
    assert loss.total.item() == pytest.approx(0.5 * softplus(0.1 - generated).mean().item(), rel=1e-5)
    slope = -0.5 * (torch.sigmoid(0.1 - generated) * (1 - t[:, None])).mean()
    assert networks["student"].mean.grad.item() == pytest.approx(slope.item(), rel=1e-4)


@pytest.mark.parametrize(("options", "message"), [
    ({"times": [1.5]}, "1.5 is none of the times of this path, up to 1"),
    ({"times": [0.5, 0.5]}, "must be one or more, and descend"),
    ({"times": []}, "must be one or more, and descend"),
    ({"low": 0.9, "high": 0.9}, "leave none of the 1000 times"),
])  # fmt: skip
def test_what_is_not_on_the_path_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        dmd(path("rectified_flow"), **options)


def test_a_time_between_timesteps_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"99\.5 is none of the timesteps of this path, up to 999"):
        dmd(path("chain"), times=[99.5])


def test_networks_that_cannot_be_compared_are_refused() -> None:
    networks, objective = gaussians(path("chain")), dmd(path("chain"))
    networks["teacher"].respaceable = False
    with pytest.raises(RecipeError, match=r"\[networks.teacher\] draws x_0"):
        take(objective, networks, "fake_score")
    networks["teacher"].respaceable, networks["student"].conditional = True, True
    with pytest.raises(RecipeError, match="student true, teacher false, fake_score false"):
        take(objective, networks, "fake_score")
