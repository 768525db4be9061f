"""The sections of a recipe, as data."""

import importlib
import inspect
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """One section: `[name]`, or `[name.<role>]` once for each role.

    Attributes:
        target: the class that its tables describe, as "module:Class": an interface, or a dataclass of plain
            options. It is imported when the section is first resolved: layers are read without torch.
        per_role: whether there is one table per role.
        common: a dataclass of options that every table of the section takes besides those of its component.
        required: whether a recipe must have it.
        default: the table that stands in for an absent one; None leaves the section out.
        source: the option of its tables that names where a table comes from, and the function that makes such
            a table whole, as "module:function".
        summary: what the section says, where the class that it describes is torch's.
    """

    name: str
    target: str
    per_role: bool = False
    common: str | None = None
    required: bool = False
    default: dict[str, Any] | None = None
    source: tuple[str, str] | None = None
    summary: str | None = None

    @property
    def description(self) -> str:
        """What the section says, in a sentence."""
        return self.summary or (inspect.getdoc(self.interface) or "").partition("\n")[0]

    @property
    def interface(self) -> type:
        interface: type = _imported(self.target)
        return interface

    @property
    def common_options(self) -> type | None:
        return _imported(self.common) if self.common else None

    def expanded(self, table: dict[str, Any]) -> dict[str, Any]:
        """A table as written, with what it takes from elsewhere.

        Raises:
            ToolkitError: if there is nothing to take, or it contradicts the table.
        """
        if self.source is None or self.source[0] not in table:
            return table
        whole: dict[str, Any] = _imported(self.source[1])(table)
        return whole

    @property
    def optional(self) -> bool:
        """Whether a recipe may leave the section out."""
        return not self.required and self.default is None

    @property
    def header(self) -> str:
        """The heading of one of its tables."""
        return f"[{self.name}.<role>]" if self.per_role else f"[{self.name}]"

    @property
    def preset(self) -> str | None:
        """The type of a table that does not name one."""
        return self.default.get("type") if self.default else None


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


SECTIONS = (
    Section("run", "toolkit.training.trainer:RunOptions", required=True),
    Section(
        "data", "toolkit.data.source:DataSource", common="toolkit.data.batches:DataOptions", required=True
    ),
    Section(
        "encoder",
        "toolkit.diffusion.encoder:Encoder",
        common="toolkit.training.build:EncoderOptions",
        source=("from_run", "toolkit.pipeline.from_run:trained"),
    ),
    Section("schedule", "toolkit.diffusion.schedule:NoiseSchedule"),
    Section(
        "networks",
        "torch.nn:Module",
        per_role=True,
        common="toolkit.training.build:NetworkOptions",
        required=True,
        source=("from_run", "toolkit.pipeline.from_run:expand"),
        summary="The network of each role of the objective.",
    ),
    Section("objective", "toolkit.training.objective:Objective", required=True),
    Section(
        "optimizers",
        "torch.optim:Optimizer",
        per_role=True,
        common="toolkit.training.optimizers:OptimizerOptions",
        required=True,
        summary="How each network that is trained learns.",
    ),
    Section("ema", "toolkit.training.ema:EMAOptions", per_role=True),
    Section("start", "toolkit.diffusion.start:Start", default={"type": "noise"}),
    Section(
        "sampler",
        "toolkit.diffusion.sampler:Sampler",
        common="toolkit.diffusion.sampler:GridOptions",
        default={"type": "ancestral"},
    ),
    Section("guidance", "toolkit.diffusion.guidance:Guidance"),
    Section("samples", "toolkit.training.result:SampleOptions", default={}),
    Section("checkpoints", "toolkit.training.checkpoint:CheckpointOptions", default={}),
    Section("trackers", "toolkit.devices.processes:TrackerOptions", default={}),
)

PROTOCOL = (  # of an evaluation: the real examples, those that are compared with them, and by what
    next(section for section in SECTIONS if section.name == "data"),
    Section("images", "toolkit.evaluation.comparison:EvaluationOptions", default={}),
    Section("features", "toolkit.evaluation.features:FeatureExtractor"),
    Section("metrics", "toolkit.evaluation.metric:Metric", per_role=True, required=True),
)
