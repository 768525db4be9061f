"""Averages made after training, against the same averages tracked during training."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from small_runs import finished
from tiny import TINY_DDGAN, TINY_DDPM
from torch import Tensor, nn

import toolkit
from toolkit import gamma_of_width
from toolkit.cli import main
from toolkit.commands import read_snapshots
from toolkit.training.ema import EMA, PowerFunction
from toolkit_posthoc_ema.reconstruction import inner_product, solved

WIDTHS = "ema.denoiser.widths=[0.05,0.1,0.14]"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["ema", *map(str, arguments)])


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose average of width 0.14 was tracked, but is no snapshot: its file lies beside them."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(TINY_DDPM)
    finished(
        folder / "tiny.toml", f"run.out={folder / 'run'}", "run.steps=24", "run.batch_size=4", WIDTHS,
        "ema.denoiser.snapshot_every=2",
    )  # fmt: skip
    for path in folder.glob("run/snapshots/denoiser/*/snapshot.json"):
        described = json.loads(path.read_text())
        del described["widths"]["0.14"]
        path.write_text(json.dumps(described))
    return folder / "run"


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The norm of the difference of two states, as a share of that of the second."""
    flat = [torch.cat([state[name].double().flatten() for name in sorted(one)]) for state in (one, other)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.mark.parametrize(("a", "b"), [((30, 2.0), (40, 5.0)), ((40, 2.0), (30, 5.0)), ((30, 1.5), (30, 1.5))])
def test_inner_products_are_integrals_of_the_profiles(a: tuple[float, float], b: tuple[float, float]) -> None:
    tau = (torch.arange(400_000, dtype=torch.float64) + 0.5) * 1e-4
    profiles = [torch.where(tau < t, (g + 1) * tau**g / t ** (g + 1), 0.0) for t, g in (a, b)]
    numbers = [torch.tensor(number, dtype=torch.float64) for number in (*a, *b)]
    assert float(inner_product(*numbers)) == pytest.approx(float(torch.dot(*profiles) * 1e-4), rel=1e-6)


@pytest.mark.parametrize("width", [0.04, 0.07, 0.15, 0.2])
def test_of_weights_on_a_known_curve_it_is_the_average_that_was_tracked(width: float) -> None:
    network = nn.Linear(3, 1, bias=False).double()
    kept = [EMA(network, PowerFunction(w)) for w in (0.05, 0.1)]
    tracked, t, gamma, snapshots = EMA(network, PowerFunction(width)), [], [], []
    for step in range(1, 1001):
        x = step / 1000
        with torch.no_grad():
            network.weight.copy_(torch.tensor([[x**2, 1 + math.sin(9 * x), math.exp(-4 * x)]]))
        for ema in (*kept, tracked):
            ema.update(network)
        if step % 10 == 0:
            for w, ema in zip((0.05, 0.1), kept, strict=True):
                t.append(step)
                gamma.append(gamma_of_width(w))
                snapshots.append(ema.network.weight.clone())
    x, error = solved(torch.tensor(t), torch.tensor(gamma, dtype=torch.float64), 1000, gamma_of_width(width))
    made = torch.einsum("i,ijk->jk", x, torch.stack(snapshots))
    assert error < 5e-3
    torch.testing.assert_close(made, tracked.network.weight, rtol=1e-3, atol=0)


@pytest.mark.slow
def test_of_a_trained_network_it_is_the_average_that_was_tracked(trained: Path) -> None:
    output = done(trained, "--width", 0.14, "--out", "average")
    assert "step 24, width 0.14, of 24 snapshots of widths 0.05, 0.1; 0.0" in output
    made = toolkit.load("average")
    tracked = load_file(trained / "snapshots/denoiser/step-0000024/0.14.safetensors")
    assert difference(made.denoiser.state_dict(), tracked) < 1e-3
    for other in [snapshot.read() for snapshot in read_snapshots(trained) if snapshot.step == 24]:
        assert difference(made.denoiser.state_dict(), other) > 3e-3
    assert (made.saved.weights, made.saved.steps) == ("ema of width 0.14", 24)


@pytest.mark.slow
def test_of_the_width_of_a_snapshot_it_is_that_snapshot(trained: Path) -> None:
    done(trained, "--width", 0.1, "--step", 20, "--out", "average")
    snapshot = next(s for s in read_snapshots(trained) if (s.step, s.width) == (20, 0.1))
    made, kept = toolkit.load("average").denoiser.state_dict(), snapshot.read()
    assert all(torch.equal(made[name], kept[name]) for name in kept)


@pytest.mark.slow
def test_it_is_sampled_and_leads_as_a_weak_model(trained: Path) -> None:
    done(trained, "--width", 0.2)
    average = trained / "ema-0.2-step-0000024"
    sampled = CliRunner().invoke(main, ["sample", str(average), "--num", "2", "--out", "one.png"])
    assert sampled.exit_code == 0 and Path("one.png").is_file(), sampled.output
    guided = toolkit.load(trained).with_guidance("autoguidance", weak=str(average), scale=1.5)
    plain, led = (torch.cat(list(one.sample(2, seed=1))) for one in (toolkit.load(trained), guided))
    assert not torch.allclose(plain, led, atol=1e-3)
    taken = run(trained, "--width", 0.2)
    assert taken.exit_code == 2 and "is already there; give --overwrite" in taken.output
    assert "ema-0.2" in done(trained, "--width", 0.2, "--overwrite")


@pytest.mark.slow
def test_without_a_width_it_lists_the_snapshots(trained: Path) -> None:
    output = done(trained)
    assert "denoiser: 24 snapshots, 1.8 MiB: widths 0.05, 0.1, steps 2, 4, 6, ..., 24" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--width", 0), "0.0 is not in the range 0<x<0.2886"),
        (("--width", 0.3), "0.3 is not in the range 0<x<0.2886"),
        (("--width", 0.1, "--step", 23), "--step 23: there are snapshots of steps 2, 4, 6, ..., 24"),
        (("--width", 0.005), "--width 0.005: cannot be made of these 24 snapshots of widths 0.05, 0.1"),
        (("--width", 0.2, "--step", 2), "cannot be made of these 2 snapshots"),
    ],
)
def test_what_snapshots_cannot_make_is_refused(
    trained: Path, arguments: tuple[object, ...], message: str
) -> None:
    assert message in refused(trained, *arguments, "--out", "average")
    assert not Path("average").exists()


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    return result.output


@pytest.mark.slow
def test_runs_without_snapshots_or_of_one_width_are_refused(write: Callable[..., Path]) -> None:
    assert "is not a run" in refused("nowhere")
    finished(
        write(), "run.out=one", "ema.denoiser.widths=[0.1]", "ema.denoiser.snapshot_every=1", "run.steps=2"
    )
    assert "all snapshots are of one width, 0.1" in refused("one", "--width", 0.07)
    shutil.rmtree("one/snapshots")
    assert "has no snapshots: train with [ema.<role>] widths" in refused("one", "--width", 0.1)


@pytest.mark.slow
def test_snapshots_of_a_role_that_is_not_sampled_are_refused(write: Callable[..., Path]) -> None:
    finished(
        write(TINY_DDGAN, "gan.toml"), "run.out=gan", "run.steps=1", "ema.discriminator.widths=[0.05,0.1]",
        "ema.discriminator.snapshot_every=1",
    )  # fmt: skip
    output = refused("gan", "--width", 0.07)
    assert "samples with 'denoiser', and its snapshots are of discriminator" in output
