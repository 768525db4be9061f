"""The cosine schedule against published tables."""

import pytest
import torch
from improved_ddpm_reference import vectors

from toolkit_improved_ddpm.schedule import cosine_betas

TABLES = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip


@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize("table", TABLES)
def test_the_cosine_schedule_equals_the_published_tables(steps: int, table: str) -> None:
    official = vectors()[f"schedule_cosine_T{steps}"]
    computed = getattr(cosine_betas(steps), table)
    assert computed.dtype == torch.float64
    assert computed[official["index0"]].tolist() == pytest.approx(official[table], rel=1e-9)


def test_noise_grows_by_the_cosine_until_the_limit_holds_the_last_beta() -> None:
    schedule = cosine_betas(50, offset=0.1, max_beta=0.5)
    angle = (torch.arange(1, 51, dtype=torch.float64) / 50 + 0.1) / 1.1 * torch.pi / 2
    start = torch.tensor(0.1 / 1.1 * torch.pi / 2, dtype=torch.float64)
    free = schedule.betas < 0.5
    assert torch.allclose(schedule.alphas_cumprod[free], (angle.cos() / start.cos())[free].square())
    assert free.tolist() == [True] * 47 + [False] * 3 and schedule.betas[-3:].tolist() == [0.5] * 3
