"""Cases: the settings in which components are checked."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.errors import PluginError
from toolkit.recipe import Recipe, read_layers, resolve
from toolkit.recipe.writer import write_toml
from toolkit.registry import load as plugins
from toolkit.registry.registry import Registry

CHAIN: dict[str, Any] = {"type": "linear", "num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.1}
Table = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """The smallest setting in which a registered component can be built.

    Attributes:
        kind: its interface, as in `registry.add`.
        name: its registered name.
        options: those without a default, and any that make it small. For a component that reads files, a
            function that gets an empty folder, may fill it, and returns the options.
        sample_shape: of one example, for constructors that ask for it.
        num_classes: of the data; None without labels.
        schedule: the table of the noise schedule, for constructors that ask for it.
        steps: of a sampler's walk; None takes the path's own number.
        recipe: of a small run, for an objective: TOML text, or tables, or a function that gets an empty
            folder and returns either. Needs no [run]; `extends` works.
        inputs: maps n to the input tensors (n, ...) of a network that is not a Denoiser; without it, only its
            weights are checked.
        declares: checks that it does not pass, by name, with the reason why it need not; they are skipped.
        registry: where it is looked up; None takes everything installed.
    """

    kind: type
    name: str = ""
    options: Table | Callable[[Path], Table] = field(default_factory=dict)
    sample_shape: tuple[int, ...] = (1, 8, 8)
    num_classes: int | None = None
    schedule: Table = field(default_factory=lambda: dict(CHAIN))
    steps: int | None = None
    recipe: str | Table | Callable[[Path], str | Table] | None = None
    inputs: Callable[[int], tuple[Tensor, ...]] | None = None
    declares: Mapping[str, str] = field(default_factory=dict)
    registry: Registry | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, type) or not isinstance(self.name, str) or not self.name:
            raise PluginError(
                f'a case is Case(kind, name, ...), such as Case(Denoiser, "unet"), not Case({self.kind!r}, '
                f"{self.name!r})"
            )

    def __str__(self) -> str:
        return f"{self.kind.__name__} {self.name}"

    @property
    def known(self) -> Registry:
        """The registry in which components are looked up."""
        return self.registry or plugins.load().registry

    @property
    def table(self) -> dict[str, Any]:
        """The complete table of the component."""
        return self.known.resolve(self.kind, self._written(), self._where)

    def _written(self) -> dict[str, Any]:
        assert not callable(self.options), "a case whose options are a function is checked through `prepared`"
        return {"type": self.name, **self.options}

    def _where(self, path: tuple[str, ...]) -> str:
        return f"case of {self}: [{'.'.join(path)}]" if path else f"case of {self}:"

    def path(self) -> NoiseSchedule:
        """The noise schedule of the case."""
        result: NoiseSchedule = self.known.create(
            NoiseSchedule, dict(self.schedule), supplied={}, where=self._where
        )
        return result

    def build(self, seed: int = 0) -> Any:
        """Build the component anew, with torch's generators seeded.

        Raises:
            RecipeError: if the case lacks a required option, or the component refuses one.
        """
        supplied = {
            "schedule": None if issubclass(self.kind, NoiseSchedule) else self.path(),
            "sample_shape": self.sample_shape,
            "num_classes": self.num_classes,
            "run_steps": 10,
        }
        torch.manual_seed(seed)
        return self.known.create(self.kind, self._written(), supplied=supplied, where=self._where)

    def read_recipe(self, rows: int, micro: int, steps: int) -> Recipe:
        """The recipe for runs on the CPU: `steps` steps of `rows` rows in micro-batches of `micro`."""
        assert self.recipe is not None and not callable(self.recipe), "an objective's case states a recipe"
        text = self.recipe if isinstance(self.recipe, str) else write_toml(dict(self.recipe))
        sizes = {"batch_size": rows, "micro_batch_size": micro, "steps": steps, "device": "cpu"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"case_of_{self.name}.toml"
            path.write_text(text, encoding="utf-8")
            layers = read_layers(path, [f"run.{key}={value}" for key, value in sizes.items()])
        return resolve(layers, self.known)


@contextmanager
def prepared(case: Case) -> Iterator[Case]:
    """The case with a registry, and with functions for options and recipe called on temporary folders."""
    with tempfile.TemporaryDirectory() as folder:
        options = case.options(Path(folder)) if callable(case.options) else case.options
        recipe = case.recipe(Path(folder)) if callable(case.recipe) else case.recipe
        yield replace(case, options=options, recipe=recipe, registry=case.known)
