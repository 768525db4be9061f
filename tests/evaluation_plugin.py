"""A stranger's plugin whose sampler and extractor write down what they are asked to make, and by whom."""

import os
from pathlib import Path

import torch
from torch import Tensor

import toolkit


def write_down(what: str, n: int) -> None:
    with Path(os.environ["WRITTEN_DOWN"]).open("a") as file:
        file.write(f"{what} {n} {os.getpid()}\n")


class Written(toolkit.Sampler):
    """Squashes the start of the walk, without a network; gives up after so many samples.

    Args:
        scale: of what is squashed.
    """

    def __init__(self, schedule: toolkit.NoiseSchedule, scale: float = 1.0) -> None:
        self.schedule, self.scale = schedule, scale

    def stepper(self) -> toolkit.SamplerStep:
        def step(denoise: toolkit.Denoise, x_t: Tensor, t: float, s: float, noise: toolkit.Noise) -> Tensor:
            counting = x_t[0].numel() == 1  # the walk on one pixel by which calls are counted
            if s != self.schedule.clean or counting:
                return x_t
            write_down("samples", len(x_t))
            limit = int(os.environ.get("GIVES_UP_AFTER", "1000000"))
            lines = Path(os.environ["WRITTEN_DOWN"]).read_text().splitlines()
            if sum(int(line.split()[1]) for line in lines if line.startswith("samples")) > limit:
                raise toolkit.RunError("the machine is switched off")
            return (self.scale * x_t).tanh()

        return step


class Corners(toolkit.FeatureExtractor):
    """The four corners of an image.

    Args:
        weights: what its identity is made of.
    """

    name = "corners"

    def __init__(self, weights: int = 0) -> None:
        self.identity = f"corners {weights}"

    def extract(self, images: Tensor, device: torch.device) -> toolkit.Features:
        write_down("features", len(images))
        return toolkit.Features(images[:, 0, ::7, ::7].flatten(1).float())


class Distance(toolkit.Metric):
    """How far the means of the features are from each other.

    Args:
        power: of the distance.
    """

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def measure(self, subject: toolkit.Subject) -> toolkit.Score:
        ours, theirs = (found.features.mean(0) for found in subject.features())
        value = float((ours - theirs).norm()) ** self.power
        return toolkit.Score({"distance": value, "distance_std": 0.25}, notes=["it is only a distance"])


class Alone(toolkit.Metric):
    """The mean of real examples: it compares nothing, so nothing of it is shared out."""

    def measure(self, subject: toolkit.Subject) -> toolkit.Score:
        write_down("alone", 1)
        return toolkit.Score({"alone": float(torch.cat([*subject.real(100, 64)]).mean())})


class Breaks(toolkit.Metric):
    """Refuses on every process but the first."""

    def measure(self, subject: toolkit.Subject) -> toolkit.Score:
        if os.environ.get("RANK", "0") != "0":
            raise toolkit.RunError("this process has had enough")
        subject.features()
        return toolkit.Score({"breaks": 0.0})


@toolkit.hookimpl
def toolkit_components(registry: toolkit.Registry) -> None:
    registry.add(toolkit.Sampler, "written", Written)
    registry.add(toolkit.FeatureExtractor, "corners", Corners)
    for name, metric in (("distance", Distance), ("alone", Alone), ("breaks", Breaks)):
        registry.add(toolkit.Metric, name, metric)
