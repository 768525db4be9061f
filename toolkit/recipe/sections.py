"""The sections of a recipe, as data."""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """One section: `[name]`, or `[name.<role>]` once for each role.

    Attributes:
        target: what its tables describe, as "module:Class": an interface, or a dataclass of plain options.
            It is imported when the section is first resolved: layers are read without torch.
        per_role: whether there is one table a role.
        common: a dataclass of options that every table of the section takes besides its component's own.
        required: whether a recipe must have it.
        default: the table that stands in for an absent one; None leaves the section out.
    """

    name: str
    target: str
    per_role: bool = False
    common: str | None = None
    required: bool = False
    default: dict[str, Any] | None = None

    @property
    def interface(self) -> type:
        interface: type = _imported(self.target)
        return interface

    @property
    def common_options(self) -> type | None:
        return _imported(self.common) if self.common else None

    @property
    def optional(self) -> bool:
        """Whether a recipe may do without."""
        return not self.required and self.default is None

    @property
    def header(self) -> str:
        """What begins one of its tables."""
        return f"[{self.name}.<role>]" if self.per_role else f"[{self.name}]"

    @property
    def preset(self) -> str | None:
        """The type of a table that states none."""
        return self.default.get("type") if self.default else None


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


SECTIONS = (
    Section("run", "toolkit.options:RunOptions", required=True),
    Section("data", "toolkit.data.source:DataSource", common="toolkit.options:DataOptions", required=True),
    Section("schedule", "toolkit.schedule:NoiseSchedule"),
    Section(
        "networks", "torch.nn:Module", per_role=True, common="toolkit.options:NetworkOptions", required=True
    ),
    Section("objective", "toolkit.objective:Objective", required=True),
    Section(
        "optimizers",
        "torch.optim:Optimizer",
        per_role=True,
        common="toolkit.optimizer:OptimizerOptions",
        required=True,
    ),
    Section("ema", "toolkit.options:EMAOptions", per_role=True),
    Section("initialiser", "toolkit.initialiser:Initialiser", default={"type": "noise"}),
    Section("sampler", "toolkit.sampler:Sampler", default={"type": "ancestral"}),
    Section("samples", "toolkit.options:SampleOptions", default={}),
    Section("checkpoints", "toolkit.options:CheckpointOptions", default={}),
    Section("trackers", "toolkit.options:TrackerOptions", default={}),
)
