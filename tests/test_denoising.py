"""The loss and the turn of one denoiser, on a denoiser whose error is known."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from toolkit import (
    Batch,
    Chain,
    Denoiser,
    DenoisingLoss,
    NoiseSchedule,
    Prediction,
    RecipeError,
    Step,
    TimestepSampler,
)
from toolkit.diffusion.continuous import EDM, VP, Cosine, RectifiedFlow
from toolkit.diffusion.timesteps import Uniform
from toolkit.training.denoising import Denoising, EDMWeighting, MinSNR, SquaredError, Unweighted

ROWS, CLASSES = 4, 3
SHAPE = (ROWS, 1, 2, 2)
GAMMA = 5.0


class Off(Denoiser):
    """Predicts that x_0 is 0, and all of x_t noise."""

    conditional = True

    def __init__(self, schedule: NoiseSchedule, null_class: bool = False) -> None:
        super().__init__()
        self.schedule, self.null_class = schedule, null_class
        self.modes: list[bool] = []
        self.labels: list[Tensor | None] = []

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.modes.append(torch.is_grad_enabled())
        self.labels.append(label)
        return Prediction(self.schedule, x_t, t, x0=torch.zeros_like(x_t))


class Learner(TimestepSampler):
    """Draws 0, 1, 2, ... with weight 2, and keeps the losses that it observes."""

    extra = 2

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0
        self.seen: list[tuple[Tensor, Tensor]] = []

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        self.drawn += n
        return torch.arange(self.drawn - n, self.drawn), torch.full((n,), 2.0)

    def observe(self, t: Tensor, loss: Tensor) -> None:
        self.seen.append((t, loss))


class Counting(Learner):
    """Draws the same and learns nothing."""

    observe = TimestepSampler.observe


@pytest.fixture
def chain() -> Chain:
    return Chain([0.02 * (i + 1) for i in range(20)])


def squared_error(schedule: NoiseSchedule) -> SquaredError:
    return SquaredError(schedule, Unweighted())


def of_noise(schedule: NoiseSchedule, t: Tensor, x0: Tensor) -> Tensor:
    """Mean squared error of the noise that `Off` predicts: sqrt(abar_t) x_0 / sqrt(1 - abar_t) is wrong."""
    alpha, sigma = schedule.at(t, x0)
    return (alpha * x0 / sigma).square().flatten(1).mean(1)


def step(denoiser: Denoiser) -> Step:
    networks = {"denoiser": denoiser}
    return Step(0, 0, torch.device("cpu"), networks, networks, nullcontext)


def snr(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return (alpha**2 / sigma**2).float()


def test_the_squared_error_is_of_the_noise_and_one_value_a_row(chain: Chain) -> None:
    x0, noise, t = torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([0, 5, 10, 19])
    loss = squared_error(chain)(Off(chain)(chain.diffuse(x0, t, noise), t), x0, noise)
    assert torch.allclose(loss, of_noise(chain, t, x0), rtol=1e-4)


@pytest.mark.parametrize("target", ["x0", "velocity"])
def test_the_squared_error_of_other_targets_on_a_chain(chain: Chain, target: str) -> None:
    """The errors are x_0 of the image, and x_0 / sigma of the velocity, since alpha^2 + sigma^2 = 1."""
    x0, noise, t = torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([0, 5, 10, 19])
    loss = SquaredError(chain, Unweighted(), target)(Off(chain)(chain.diffuse(x0, t, noise), t), x0, noise)
    factor = {"x0": 1.0, "velocity": 1 / chain.sigma(t).float()}[target]
    assert torch.allclose(loss, (factor * x0.square().flatten(1).mean(1).sqrt()) ** 2, rtol=1e-4)


@pytest.mark.parametrize("path", [RectifiedFlow(), EDM(), VP(), Cosine()])
def test_the_squared_error_of_the_flow(path) -> None:
    """`Off` misses dx/dt = alpha' x_0 + sigma' noise by (alpha sigma' / sigma - alpha') x_0."""
    x0, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    t = path.noisiest * torch.tensor([0.1, 0.4, 0.7, 0.95])
    loss = SquaredError(path, Unweighted(), "flow")(Off(path)(path.diffuse(x0, t, noise), t), x0, noise)
    (alpha, sigma), (d_alpha, d_sigma) = path.at(t, x0), path.rates(t, x0)
    error = (alpha * d_sigma / sigma - d_alpha) * x0
    assert torch.allclose(loss, error.square().flatten(1).mean(1), rtol=1e-3)


def test_on_rectified_flow_the_flow_is_noise_minus_data() -> None:
    x0, noise, t = torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([0.1, 0.4, 0.7, 0.95])

    class Still(Off):
        def forward(self, x_t: Tensor, t: Tensor, **context: Tensor | None) -> Prediction:
            return Prediction(self.schedule, x_t, t, flow=torch.zeros_like(x_t))

    path = RectifiedFlow()
    loss = SquaredError(path, Unweighted(), "flow")(Still(path)(path.diffuse(x0, t, noise), t), x0, noise)
    assert torch.allclose(loss, (noise - x0).square().flatten(1).mean(1))


def test_a_flow_is_refused_on_a_chain(chain: Chain) -> None:
    with pytest.raises(ValueError, match="which a chain is not"):
        SquaredError(chain, Unweighted(), "flow")


@pytest.mark.parametrize("target", ["noise", "x0", "velocity"])
@pytest.mark.parametrize("path", [None, VP(), RectifiedFlow()])
def test_min_snr_weights_are_those_of_hang_et_al(chain: Chain, path, target: str) -> None:
    schedule = path or chain
    t = torch.arange(20) if path is None else torch.linspace(0.01, 0.99, 20)
    ratio = snr(schedule, t)
    assert float(ratio.min()) < GAMMA < float(ratio.max())
    clamped = ratio.clamp(max=GAMMA)
    expected = {"noise": clamped / ratio, "x0": clamped, "velocity": clamped / (ratio + 1)}[target]
    assert torch.allclose(MinSNR(schedule).weights(t, target), expected, rtol=1e-5)
    x0, noise = torch.randn(20, 1, 2, 2), torch.randn(20, 1, 2, 2)
    plain, weighted = (
        SquaredError(schedule, weighting, target)(Off(schedule)(schedule.diffuse(x0, t, noise), t), x0, noise)
        for weighting in (Unweighted(), MinSNR(schedule))
    )
    assert torch.allclose(weighted, expected * plain, rtol=1e-5)


def test_min_snr_is_the_same_loss_of_noise_image_and_velocity(chain: Chain) -> None:
    """Where variance is preserved, its factors make up for the differences between the three errors."""
    x0, noise, t = torch.randn(20, 1, 2, 2), torch.randn(20, 1, 2, 2), torch.arange(20)
    of_noise, of_x0, of_velocity = (
        SquaredError(chain, MinSNR(chain, gamma=2.0), target)(
            Off(chain)(chain.diffuse(x0, t, noise), t), x0, noise
        )
        for target in ("noise", "x0", "velocity")
    )
    assert torch.allclose(of_noise, of_x0, rtol=1e-4) and torch.allclose(of_velocity, of_x0, rtol=1e-4)


def test_min_snr_is_finite_where_a_path_begins_and_ends() -> None:
    path = RectifiedFlow()
    t = torch.tensor([0.0, 1.0])
    assert [MinSNR(path).weights(t, target).tolist() for target in ("noise", "x0")] == [[0, 1], [GAMMA, 0]]


def test_min_snr_says_nothing_of_the_flow() -> None:
    path = RectifiedFlow()
    with pytest.raises(RecipeError, match="min_snr says nothing of the flow"):
        SquaredError(path, MinSNR(path), "flow")


@pytest.mark.parametrize("data", [0.5, 2.0])
def test_edm_weights_undo_what_its_network_is_multiplied_by(data: float) -> None:
    """lambda c_out^2 = 1, with c_out = sigma sd / sqrt(sigma^2 + sd^2) (Karras et al. 2022)."""
    path, sigma = EDM(), torch.tensor([0.002, 0.1, 1.0, 80.0])
    weights = EDMWeighting(path, data).weights(sigma, "x0")
    assert torch.allclose(weights, (sigma**2 + data**2) / (sigma * data) ** 2, rtol=1e-5)
    c_out = sigma * data / (sigma**2 + data**2).sqrt()
    assert torch.allclose(weights * c_out**2, torch.ones(4), rtol=1e-5)


def test_edm_weights_on_a_chain_take_the_noise_relative_to_the_signal(chain: Chain) -> None:
    t = torch.arange(20)
    sigma = (chain.sigma(t) / chain.alpha(t)).float()
    weights = EDMWeighting(chain).weights(t, "x0")
    assert torch.allclose(weights, (sigma**2 + 0.25) / (0.5 * sigma) ** 2, rtol=1e-5)


@pytest.mark.parametrize("target", ["noise", "velocity"])
def test_edm_weights_are_of_the_error_of_x0(chain: Chain, target: str) -> None:
    with pytest.raises(RecipeError, match="edm weights are of the error of x0"):
        SquaredError(chain, EDMWeighting(chain), target)


def test_the_loss_is_weighted_and_what_is_observed_is_not(chain: Chain) -> None:
    learner, denoiser, x0 = Learner(), Off(chain), torch.randn(SHAPE)
    objective = Denoising(chain, learner, squared_error(chain), None)
    (turn,) = objective.turns()
    loss = turn.loss(Batch(x0, None, 0), step(denoiser))
    objective.observe(turn.name, loss.records)
    ((t, observed),) = learner.seen
    assert float(loss.total) == pytest.approx(2 * float(observed[:ROWS].mean()))
    assert float(loss.logs["unweighted"]) == pytest.approx(float(observed[:ROWS].mean()))
    assert torch.allclose(observed, of_noise(chain, t, x0.repeat(3, 1, 1, 1)), rtol=1e-3)


def test_extra_draws_are_passes_without_gradient_that_only_the_history_sees(chain: Chain) -> None:
    learner, denoiser = Learner(), Off(chain)
    objective = Denoising(chain, learner, squared_error(chain), None)
    (turn,) = objective.turns()
    loss = turn.loss(Batch(torch.randn(SHAPE), None, 0), step(denoiser))
    objective.observe(turn.name, loss.records)
    assert denoiser.modes == [True, False, False]
    assert learner.seen[0][0].tolist() == list(range(3 * ROWS))  # draw by draw, in the order of the rows


def test_nothing_is_gathered_for_timesteps_that_learn_nothing(chain: Chain) -> None:
    (turn,) = Denoising(chain, Counting(), squared_error(chain), None).turns()
    denoiser = Off(chain)
    loss = turn.loss(Batch(torch.randn(SHAPE), None, 0), step(denoiser))
    assert loss.records == {} and loss.logs == {}
    assert denoiser.modes == [True]


def labelled(n: int) -> Batch:
    return Batch(torch.randn(n, 1, 2, 2), torch.arange(n) % CLASSES, 0)


def dropping(chain: Chain, label_dropout: float) -> Denoising:
    return Denoising(chain, Uniform(chain), squared_error(chain), CLASSES, label_dropout)


def test_label_dropout_makes_its_share_of_labels_the_null_class(chain: Chain) -> None:
    n, share = 10_000, 0.1
    denoiser, batch = Off(chain, null_class=True), labelled(10_000)
    torch.manual_seed(0)
    (turn,) = dropping(chain, share).turns()
    turn.loss(batch, step(denoiser))
    (label,) = denoiser.labels
    null = label == CLASSES
    five_errors = 5 * (share * (1 - share) / n) ** 0.5
    assert float(null.float().mean()) == pytest.approx(share, abs=five_errors)
    assert torch.equal(label[~null], batch.labels[~null])


def test_measures_keep_every_label(chain: Chain) -> None:
    denoiser, batch = Off(chain, null_class=True), labelled(ROWS)
    (measure,) = dropping(chain, 0.9).measures()
    measure.loss(batch, step(denoiser))
    assert torch.equal(denoiser.labels[0], batch.labels)


@pytest.mark.parametrize(("label_dropout", "null_class"), [(0.1, False), (0.0, True)])
def test_label_dropout_and_a_null_class_go_together(chain, label_dropout: float, null_class: bool) -> None:
    (turn,) = dropping(chain, label_dropout).turns()
    with pytest.raises(RecipeError, match="label_dropout above 0 and .*null_class = true go together"):
        turn.loss(labelled(ROWS), step(Off(chain, null_class)))


def test_label_dropout_needs_labels(chain: Chain) -> None:
    with pytest.raises(ValueError, match="label_dropout is for labelled data"):
        Denoising(chain, Uniform(chain), squared_error(chain), None, 0.1)


def test_without_label_dropout_a_step_draws_the_timesteps_and_then_the_noise_alone(chain: Chain) -> None:
    batch, drawn = labelled(ROWS), []

    class Keeping(DenoisingLoss):
        def forward(self, prediction, x0, noise):
            drawn.append((prediction.t, noise))
            return prediction.x0.flatten(1).mean(1)

    (turn,) = Denoising(chain, Uniform(chain), Keeping(), CLASSES).turns()
    denoiser = Off(chain)
    torch.manual_seed(3)
    turn.loss(batch, step(denoiser))
    after = torch.get_rng_state()
    torch.manual_seed(3)
    t, noise = torch.randint(20, (ROWS,)), torch.randn(SHAPE)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(drawn[0][0], t) and torch.equal(drawn[0][1], noise)
    assert torch.equal(denoiser.labels[0], batch.labels)
