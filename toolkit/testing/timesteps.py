"""Checks of timestep samplers."""

from math import sqrt

import torch
from torch import Tensor

from toolkit.diffusion.chain import Chain
from toolkit.diffusion.timesteps import TimestepSampler
from toolkit.testing.case import Case
from toolkit.testing.randomness import foreign_seed, without_draws
from toolkit.testing.requirement import require

DRAWS = 200_000
DEVIATIONS = 5.0  # standard errors; chance exceeds them once in two million times, for each timestep
CPU = torch.device("cpu")


def _draw(timesteps: TimestepSampler, n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return timesteps.draw(n, CPU)


def _teach(timesteps: TimestepSampler, schedule: Chain) -> None:
    """Let it see losses that differ thirtyfold between timesteps, often enough for any history."""
    for i in range(40):
        t = schedule.timesteps.repeat(4)
        timesteps.observe(t, 0.1 + 3 * t / len(schedule.timesteps) + 0.01 * (i % 3))


def check_draws(case: Case) -> None:
    """t is on the path, int64 on a chain; weights are float32 and positive."""
    timesteps, chain = case.build(), case.path()
    t, weight = _draw(timesteps, 64)
    require(
        t.shape == weight.shape == (64,), f"draw(64) gives shapes {tuple(t.shape)}, {tuple(weight.shape)}"
    )
    if isinstance(chain, Chain):
        require(t.dtype == torch.int64, f"t is {t.dtype}: it must be int64, an index of the original chain")
        require(torch.isin(t, chain.timesteps).all(), "draws a t that the schedule does not keep")
    else:
        require(t.dtype == torch.float32, f"t is {t.dtype}: it must be float32 on a continuous path")
        require(bool((t >= chain.clean).all()), "draws a t that is not on the path")
    require(weight.dtype == torch.float32, f"weights are {weight.dtype}: they must be float32")
    require((weight.isfinite() & (weight > 0)).all(), "weights must be finite and above 0")


def _require_unbiased(timesteps: TimestepSampler, chain: Chain, when: str) -> None:
    t, weight = _draw(timesteps, DRAWS)
    kept = chain.timesteps
    index, wanted = torch.searchsorted(kept, t), 1 / len(kept)
    first, second = (
        torch.zeros(len(kept), dtype=torch.float64).index_add_(0, index, weight.double() ** p) / DRAWS
        for p in (1, 2)
    )
    error = ((second - first**2).clamp(min=0) / DRAWS).sqrt()
    # A timestep that is hardly ever drawn has no usable estimate of its own error: use a floor instead.
    error = error.clamp(min=wanted / sqrt(DRAWS * wanted) * 0.5)
    worst = int(((first - wanted) / error).abs().argmax())
    off = float((first[worst] - wanted) / error[worst])
    require(
        abs(off) < DEVIATIONS,
        f"{when} E[weight; t = {int(kept[worst])}] is {float(first[worst]):.5f} and not 1/{len(kept)} "
        f"({off:+.1f} standard errors of {DRAWS} draws): the weight of t must be 1 / (T p_t)",
    )


def check_unbiased(case: Case) -> None:
    """On a chain, E[weight f(t)] is the uniform mean of f, before and after it has learned."""
    timesteps, chain = case.build(), case.path()
    if not isinstance(chain, Chain):
        return
    _require_unbiased(timesteps, chain, "as built,")
    if timesteps.learns:
        _teach(timesteps, chain)
        _require_unbiased(timesteps, chain, "after it has observed losses,")


def check_seed_stable(case: Case) -> None:
    """Draws depend on torch's default generator alone, whatever the state of numpy's and Python's."""
    drawn = []
    for seed in (1, 2):
        timesteps = case.build()
        with foreign_seed(seed), without_draws("draw", "draw by torch.randint and the like", torchs=False):
            drawn.append(_draw(timesteps, 64))
    (t, weight), (t_again, weight_again) = drawn
    require(
        torch.equal(t, t_again) and torch.equal(weight, weight_again),
        "the same seed of torch gave other timesteps: draw by torch.randint or torch.multinomial without a "
        "generator of your own",
    )


def check_state_round_trips(case: Case) -> None:
    """What it has learned survives in its state_dict."""
    learned, fresh, chain = case.build(), case.build(), case.path()
    if learned.learns and isinstance(chain, Chain):
        _teach(learned, chain)
    _load(fresh, learned)
    require(
        all(torch.equal(a, b) for a, b in zip(_draw(learned, 256), _draw(fresh, 256), strict=True)),
        "after state_dict and load_state_dict it draws otherwise: keep what it learns in buffers "
        "(register_buffer) that exist from the start",
    )


def _load(fresh: TimestepSampler, learned: TimestepSampler) -> None:
    try:
        fresh.load_state_dict({name: tensor.clone() for name, tensor in learned.state_dict().items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        require(False, f"its state_dict does not load into a new one ({reason}): register buffers at once")


CHECKS = (check_draws, check_unbiased, check_seed_stable, check_state_round_trips)
