"""A denoiser's estimate, as clean image, noise, velocity or flow: each follows from any of the others."""

from typing import Literal, Self

import torch
from torch import Tensor

from toolkit.diffusion.continuous import Continuous
from toolkit.diffusion.schedule import NoiseSchedule, Scale, Time

Target = Literal["noise", "x0", "velocity", "flow"]


def coefficients(schedule: NoiseSchedule, target: Target, t: Time, like: Tensor) -> tuple[Scale, Scale]:
    """The a and b of u = a x0 + b noise for a target u, shaped to multiply `like` (B, ...).

    Raises:
        ValueError: if the target is the flow and the path is not `Continuous`.
    """
    if target == "x0":
        return 1.0, 0.0
    if target == "noise":
        return 0.0, 1.0
    if target == "velocity":
        alpha, sigma = schedule.at(t, like)
        return -sigma, alpha
    if not isinstance(schedule, Continuous):
        raise ValueError("a flow is the derivative of a path in continuous time, which a chain is not")
    return schedule.rates(t, like)


def tells_x0(schedule: NoiseSchedule, target: Target) -> bool:
    """Whether x_0 follows from x_t and the target also at the noisiest time, to the digits of float32.

    Where alpha is 0, as at the end of a chain with zero terminal SNR, the noise says nothing of x_0.
    """
    # On the CPU, even if a network is being built on the meta device.
    t = torch.tensor(
        [schedule.noisiest], dtype=torch.int64 if schedule.discrete else torch.float64, device="cpu"
    )
    like = torch.empty(1, device="cpu")
    (alpha, sigma), (a, b) = schedule.at(t, like), coefficients(schedule, target, t, like)
    return abs(float(alpha * b - sigma * a)) > torch.finfo(torch.float32).eps


def refuse_target(schedule: NoiseSchedule, target: Target) -> None:
    """Refuse a target that a network cannot predict on a path, for the constructors of denoisers.

    Raises:
        ValueError: for the noise on a path that ends in pure noise, where x_0 would be 0 / 0; for a flow on a
            chain.
    """
    if not tells_x0(schedule, target):
        raise ValueError(
            f"the {target} says nothing of x_0 where there is nothing but noise (alpha = 0 at the end of "
            'this schedule): set prediction to "v_prediction", "sample" or, on a continuous path, "flow"'
        )


class Prediction:
    """An estimate, from x_t (B, ...) at t, of the x_0 and the noise that make up x_t.

    Exactly one of `x0`, `noise`, `velocity` and `flow` is given, (B, ...): the one that the network computes.

        velocity = alpha noise - sigma x0 (Salimans & Ho 2022),   flow = dx/dt = alpha' x0 + sigma' noise

    Each is u = a x0 + b noise. With x_t = alpha x0 + sigma noise these are two linear equations, solved by

        x0 = (b x_t - sigma u) / (alpha b - sigma a),   noise = (alpha u - a x_t) / (alpha b - sigma a).

    Args:
        schedule: the path.
        x_t: what the network was given.
        t: a number, or (B,).
        variance_fraction: (B, ...), a learned variance: 0 to 1 from the lower to the upper bound of the log
            variance; samplers and losses use the bounds of their own step. None if it is not learned.

    Raises:
        ValueError: unless exactly one is given; if it is a flow on a path that is not `Continuous`.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        x_t: Tensor,
        t: Time,
        *,
        x0: Tensor | None = None,
        noise: Tensor | None = None,
        velocity: Tensor | None = None,
        flow: Tensor | None = None,
        variance_fraction: Tensor | None = None,
    ) -> None:
        given: dict[Target, Tensor | None] = {"x0": x0, "noise": noise, "velocity": velocity, "flow": flow}
        known: dict[Target, Tensor] = {name: u for name, u in given.items() if u is not None}
        if len(known) != 1:
            raise ValueError("a prediction is of exactly one of x0, noise, velocity and flow")
        self.schedule, self.x_t, self.t = schedule, x_t, t
        self.variance_fraction = variance_fraction
        (self.target,) = known
        self._known = known
        if flow is not None:
            coefficients(schedule, "flow", t, x_t)

    @classmethod
    def from_output(
        cls,
        schedule: NoiseSchedule,
        x_t: Tensor,
        t: Time,
        out: Tensor,
        target: Target,
        learned_variance: bool = False,
    ) -> Self:
        """The prediction that a network's output `out` stands for, in float32.

        `out` is (B, ...); with a learned variance dimension 1 is twice as long, its second half is v, and the
        variance fraction is (v + 1) / 2 (Nichol & Dhariwal 2021).
        """
        out, fraction = out.float(), None
        if learned_variance:
            out, v = out.chunk(2, dim=1)
            fraction = (v + 1) / 2
        return cls(schedule, x_t, t, variance_fraction=fraction, **{target: out})

    def _get(self, target: Target) -> Tensor:
        if target not in self._known:
            alpha, sigma = self.schedule.at(self.t, self.x_t)
            a, b = coefficients(self.schedule, self.target, self.t, self.x_t)
            u = self._known[self.target]
            if target == "x0":
                self._known["x0"] = (b * self.x_t - sigma * u) / (alpha * b - sigma * a)
            elif target == "noise":
                self._known["noise"] = (alpha * u - a * self.x_t) / (alpha * b - sigma * a)
            else:
                a, b = coefficients(self.schedule, target, self.t, self.x_t)
                self._known[target] = a * self.x0 + b * self.noise
        return self._known[target]

    @property
    def x0(self) -> Tensor:
        """The estimated clean image (B, ...); not clipped."""
        return self._get("x0")

    @property
    def noise(self) -> Tensor:
        """The estimated noise, epsilon (B, ...)."""
        return self._get("noise")

    @property
    def velocity(self) -> Tensor:
        """alpha noise - sigma x0 (B, ...) (Salimans & Ho 2022)."""
        return self._get("velocity")

    @property
    def flow(self) -> Tensor:
        """dx/dt along the path (B, ...).

        Raises:
            ValueError: on a path that is not `Continuous`.
        """
        return self._get("flow")

    def tensors(self) -> list[Tensor]:
        """What the network has computed, from which all else follows."""
        fraction = [] if self.variance_fraction is None else [self.variance_fraction]
        return [self._known[self.target], *fraction]

    def of(self, target: Target) -> Tensor:
        """The estimate named by `target`, (B, ...)."""
        return self._get(target)

    def clipped(self, limit: float = 1.0) -> "Prediction":
        """The same with x0 clipped to [-limit, limit]; the noise follows from x_t and the clipped x0."""
        x0 = self.x0.clamp(-limit, limit)
        return Prediction(self.schedule, self.x_t, self.t, x0=x0, variance_fraction=self.variance_fraction)

    def extrapolated(self, weaker: "Prediction", scale: float) -> "Prediction":
        """weaker + scale (self - weaker), for two predictions from the same x_t (guidance).

        The result is the same in x_0, noise, velocity or flow: given x_t, they are affine in each other.
        """
        u, v = self.of(self.target), weaker.of(self.target)
        return Prediction(
            self.schedule, self.x_t, self.t, variance_fraction=self.variance_fraction,
            **{self.target: v + scale * (u - v)},
        )  # fmt: skip

    def split(self, n: int) -> list["Prediction"]:
        """The predictions for consecutive chunks of n rows."""
        fractions = None if self.variance_fraction is None else self.variance_fraction.split(n)
        return [
            Prediction(
                self.schedule, x_t, t,
                variance_fraction=None if fractions is None else fractions[i], **{self.target: u},
            )
            for i, (x_t, t, u) in enumerate(
                zip(self.x_t.split(n), self._rows(n), self._known[self.target].split(n), strict=True)
            )
        ]  # fmt: skip

    def _rows(self, n: int) -> list[Time]:
        if isinstance(self.t, Tensor):
            return list(self.t.split(n))
        return [self.t] * -(-len(self.x_t) // n)
