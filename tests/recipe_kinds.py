"""Small interfaces, components and sections, for tests that need neither torch nor installed plugins."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from toolkit.recipe import Section
from toolkit.registry.registry import Registry
from toolkit.registry.signature import Default

Positive = Annotated[int, Field(ge=1)]


class Chain(ABC):
    length: int


class Draw(ABC):
    @abstractmethod
    def draw(self) -> float: ...


class Method: ...


class Net: ...


class Uniform(Draw):
    def draw(self) -> float:
        return 0.5


class Weighted(Draw):
    def __init__(self, schedule: Chain, power: float = 1.0) -> None:
        self.length, self.power = schedule.length, power

    def draw(self) -> float:
        return self.power


class Simple(Method):
    """The plainest method. It has few options.

    Args:
        k: how many,
            and no fewer.
        timesteps: which ones.
    """

    def __init__(
        self, schedule: Chain, k: Positive, timesteps: Annotated[Draw, Default("uniform")], flip: bool = False
    ) -> None:
        self.schedule, self.k, self.timesteps, self.flip = schedule, k, timesteps, flip


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Rich(Method):
    def __init__(
        self,
        draws: list[Draw],
        named: dict[str, Draw],
        spare: Draw | None = None,
        limit: Positive | None = None,
        size: int | tuple[int, int] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        channels: list[int] | None = None,
        extra: dict[str, float] = {},  # noqa: B006
        colour: Colour = Colour.RED,
        folder: Path = Path("somewhere"),
        title: str = "untitled",
        mode: Literal["fast", "slow"] = "fast",
    ) -> None:
        if limit == 13:
            raise ValueError("a limit of 13\nbrings bad luck")
        self.given = dict(locals())


class Layered(Net):
    def __init__(self, sample_shape: tuple[int, ...], width: Positive, classes_of: str = "images") -> None:
        self.sample_shape, self.width = sample_shape, width


class Shadow(Net):
    def __init__(self, compile: int = 3) -> None: ...


def even(length: Positive) -> Chain:
    """A chain of even steps."""
    chain = Chain()
    chain.length = length
    return chain


@dataclass(frozen=True)
class RunTable:
    batch_size: Positive
    micro: Positive | None = None
    out: Path | None = None
    names: list[Literal["a", "b"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.micro and self.batch_size % self.micro:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro {self.micro}")


@dataclass(frozen=True)
class NetTable:
    timesteps: Annotated[Draw, Default("uniform")]
    compile: bool = False


SECTIONS = (
    Section("run", f"{__name__}:RunTable", required=True),
    Section("schedule", f"{__name__}:Chain"),
    Section("networks", f"{__name__}:Net", per_role=True, common=f"{__name__}:NetTable", required=True),
    Section("method", f"{__name__}:Method", required=True),
    Section("draw", f"{__name__}:Draw", default={"type": "uniform"}),
)

RECIPE = """\
[run]
batch_size = 8

[schedule]
type = "even"
length = 4

[networks.main]
type = "layered"
width = 3

[method]
type = "simple"
k = 2
"""


def registry() -> Registry:
    found = Registry()
    found.declare(Chain, Draw, Method, Net)
    found.add(Chain, "even", even)
    found.add(Draw, "uniform", Uniform)
    found.add(Draw, "weighted", Weighted)
    found.add(Method, "simple", Simple)
    found.add(Method, "rich", Rich)
    found.add(Net, "layered", Layered)
    found.add(Net, "shadow", Shadow)
    return found
