"""Students sample at the times that they are trained for, in a saved pipeline too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from toolkit import NoiseSchedule, Objective, RecipeError, Sampler, Start, load, load_plugins, walk
from toolkit.cli import main
from toolkit.testing.oracles import MEAN, Gaussian

FLOW = {"type": "rectified_flow"}
CHAIN = {"type": "linear", "num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.1}


def create(kind: type, schedule: NoiseSchedule | None = None, **table: Any) -> Any:
    supplied = {"schedule": schedule, "num_classes": None, "sample_shape": (1, 8, 8)}
    return load_plugins().registry.create(kind, table, supplied=supplied, where=lambda path: "test")


@pytest.mark.parametrize(("schedule", "times", "grid"), [
    (FLOW, None, (1.0, 0.0)), (FLOW, [1.0, 0.4], (1.0, 0.4, 0.0)), (CHAIN, None, (199, -1)),
    (CHAIN, [150, 70], (150, 70, -1)),
])  # fmt: skip
def test_a_student_is_called_at_its_times_and_no_others(
    schedule: dict[str, Any], times: list[float] | None, grid: tuple[float, ...]
) -> None:
    path = create(NoiseSchedule, **schedule)
    sampler = create(Sampler, path, type="few_step", times=times)
    assert sampler.grid(path, None, None) == sampler.grid(path, len(grid) - 1, None) == grid
    student = Gaussian(path, flow_map=True)  # exact: its one call leads from noise to data
    x = walk(sampler, student, path, path.prior_std * torch.randn(20_000, 2), grid)
    assert student.seen == pytest.approx(grid[:-1])
    if times is None or times[0] == path.noisiest:
        assert torch.allclose(x.mean(0), MEAN, atol=0.05)


@pytest.mark.parametrize("asked", [(10, None), (None, "trailing")])
def test_other_steps_are_refused(asked: tuple[Any, Any]) -> None:
    path = create(NoiseSchedule, **CHAIN)
    with pytest.raises(ValueError, match=r"calls a student at its own times, \[150\]"):
        create(Sampler, path, type="few_step", times=[150]).grid(path, *asked)


@pytest.mark.parametrize(
    "other", [{"type": "ancestral"}, {"type": "few_step"}, {"type": "few_step", "times": [120]}]
)
def test_a_student_that_would_be_sampled_at_other_times_is_refused(other: dict[str, Any]) -> None:
    path = create(NoiseSchedule, **CHAIN)
    objective, start = create(Objective, path, type="dmd", times=[99]), create(Start, path, type="noise")
    objective.refuse_sampling(create(Sampler, path, type="few_step", times=[99]), start)
    with pytest.raises(RecipeError, match=r'set type = "few_step", times = \[99\]'):
        objective.refuse_sampling(create(Sampler, path, **other), start)


TEACHER = """
extends = ["quickstart"]
[run]
batch_size = 8
steps = 1
[networks.denoiser]
block_out_channels = [4, 4]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
norm_num_groups = 2
attention_head_dim = "none"
[samples]
num = 0
"""


@pytest.mark.slow
def test_a_run_from_a_teacher_is_sampled_by_one_call(write: Callable[..., Path]) -> None:
    def toolkit(*args: str, refused: int = 0) -> str:
        result = CliRunner().invoke(main, args, catch_exceptions=False)
        assert result.exit_code == refused, result.output
        return result.output

    toolkit("train", str(write(TEACHER, "teacher.toml")), "--set", "run.out=runs/quickstart")
    few = ("run.steps=2", "run.batch_size=4", "samples.num=0", "run.out=student")
    flags = [part for one in few for part in ("--set", one)]
    error = toolkit("train", "dmd_digits", *flags, "--set", "sampler.times=[120]", refused=2)
    assert 'a student is called at objective.times: set type = "few_step"' in error
    toolkit("train", "dmd_digits", *flags)
    student, teacher = load("student"), load("runs/quickstart")
    assert student.calls == 1 and student.saved.role == "student"
    images = student(batch_size=2, output_type="pt").images
    assert images.shape == (2, 1, 8, 8) and images.isfinite().all()
    own, taught = (pipeline.denoiser.state_dict() for pipeline in (student, teacher))
    assert own.keys() == taught.keys() and any(not torch.equal(own[name], taught[name]) for name in own)
    with pytest.raises(RecipeError, match="few_step calls a student at its own times"):
        student(batch_size=1, num_inference_steps=5)
