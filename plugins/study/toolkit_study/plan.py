"""A study: a TOML file that names runs, how they are scored, and what is compared.

[study]              title, seeds
[set]                values of the recipes of all runs, as tables: [set.run], [set.data]
[runs.<name>]        recipe, and how long; [runs.<name>.set] has values of its recipe alone, and
                     [runs.<name>.samplers] the ways in which it is sampled
[images], [features], [metrics.<name>]    as `toolkit evaluate --set` takes them
[comparisons.<name>] a baseline, and what is compared with it
[scale.<name>]       tables that are merged over the file's own by `--scale <name>`

Text in braces is the folder of another run of the study, of the same seed: "{teacher}". What names it is
trained after it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from toolkit import Positive, load_plugins
from toolkit.commands import (
    PROTOCOL,
    Layer,
    Layers,
    RecipeError,
    Section,
    flag_layer,
    nearest,
    read_layers,
    resolve,
)

Seed = Annotated[int, Field(ge=0)]
RUN = re.compile(r"\{(\w+)\}")
WITH_PREFIX = re.compile(r"[^{}]*\{(\w+)\}")
PARTS = ("sampler", "start", "guidance")
# Scores say what a grid would show, and take as long.
QUIET = Layer("studies", {"samples": {"num": 0}}, {("samples",): "studies", ("samples", "num"): "studies"})
UNTIL_TIMED = 10_000  # steps of a run whose length is not known yet: enough for every schedule over them
LENGTHS = ("steps", "images", "seconds", "as_long_as")
FREE = ("set", "samplers")  # tables of a run that are no options of it


@dataclass(frozen=True)
class StudyOptions:
    """What the study is about.

    Args:
        title: of the report.
        seeds: every run is trained once for each.
        split: the real examples to compare with; None takes the held-out ones if there are any.
        most_steps: no run takes more steps than these; for a small scale.
        ranked: tables stand in order of the first score, best first, and not in that of the file.
    """

    title: str
    seeds: list[Seed]
    split: Literal["held_out", "train"] | None = None
    most_steps: Positive | None = None
    ranked: bool = False

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or several different numbers, not {self.seeds}")


@dataclass(frozen=True)
class RunOptions:
    """A run: what is trained, for how long, and whether it is scored.

    Args:
        recipe: a packaged recipe, or a file, relative to the study's.
        title: what tables call it; None takes the run's name.
        steps: of training; None takes the recipe's own length.
        images: instead of steps.
        seconds: instead of steps: as many as take so much processor time (on an accelerator, time on the
            clock) by the cost of a step, which is measured first, for all such runs in turns.
        as_long_as: instead of steps: as many as take as long as another run does, by the same measurement.
        seeds: of this run; None takes the study's. A run that all others share, a classifier say, has one.
        scored: whether its samples are scored; false for one that is only there for others.
    """

    recipe: str
    title: str | None = None
    steps: Positive | None = None
    images: Positive | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None
    as_long_as: str | None = None
    seeds: list[Seed] | None = None
    scored: bool = True

    def __post_init__(self) -> None:
        stated = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(stated) > 1:
            raise ValueError(f"states {' and '.join(stated)}: a run has one length")


@dataclass(frozen=True)
class ComparisonOptions:
    """Differences from a baseline, seed by seed.

    Args:
        baseline: a run, or a run and one of its samplers: "ddpm/DDIM, 50".
        of: what is compared with it, likewise; None takes everything else that is scored.
        title: of the table; None takes the comparison's name.
    """

    baseline: str
    of: list[str] | None = None
    title: str | None = None


SECTIONS = (
    Section("study", "toolkit_study.plan:StudyOptions", required=True),
    Section("runs", "toolkit_study.plan:RunOptions", per_role=True, required=True),
    Section("comparisons", "toolkit_study.plan:ComparisonOptions", per_role=True, default={}),
    # Without metrics nothing is scored, and held-out losses are compared.
    *(replace(section, required=False) for section in PROTOCOL if section.name != "data"),
)


@dataclass(frozen=True)
class Row:
    """A run and one way to sample it: what a line of a table is about.

    Attributes:
        sampler: its name; "" for the recipe's own.
        parts: options of [sampler], [start] and [guidance] that differ from the recipe's.
    """

    run: str
    sampler: str
    title: str
    parts: Mapping[str, Any]

    @property
    def key(self) -> str:
        """What comparisons call it: "ddpm", "ddpm/DDIM, 50"."""
        return f"{self.run}/{self.sampler}" if self.sampler else self.run

    @property
    def slug(self) -> str:
        """Its key as the name of a file."""
        return re.sub(r"[^A-Za-z0-9_.]+", "_", self.key).strip("_")


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study: its recipe, complete but for the folders of other runs.

    Attributes:
        tables: the recipe; "{name}" stands for the folder of another run.
        after: the runs that it needs.
        seconds: how long it is to take, if its steps are not known before a step is timed.
        as_long_as: likewise, the run that takes as long.
    """

    name: str
    title: str
    recipe: str
    seeds: tuple[int, ...]
    tables: Mapping[str, Any]
    after: tuple[str, ...]
    rows: tuple[Row, ...]
    seconds: float | None = None
    as_long_as: str | None = None

    @property
    def steps(self) -> int:
        """How many it takes; meaningless if `timed` and not settled."""
        options = self.tables["run"]
        by_images = None if options["images"] is None else -(-options["images"] // options["batch_size"])
        return int(min(end for end in (options["steps"], by_images) if end is not None))

    @property
    def timed(self) -> bool:
        """Whether its length is known only once a step is timed."""
        return self.seconds is not None or self.as_long_as is not None

    def of_steps(self, steps: int) -> "PlannedRun":
        tables = {**self.tables, "run": {**self.tables["run"], "steps": steps}}
        return replace(self, tables=tables, seconds=None, as_long_as=None)


@dataclass(frozen=True)
class Study:
    """A study as it is to be carried out.

    Attributes:
        about: the comment at the head of its file.
        protocol: [images], [features] and [metrics], complete.
        notes: what the study's own values drop of the recipes that they change.
    """

    name: str
    title: str
    about: str
    seeds: tuple[int, ...]
    split: str | None
    runs: Mapping[str, PlannedRun]
    protocol: Mapping[str, Any]
    comparisons: Mapping[str, ComparisonOptions]
    most_steps: int | None
    ranked: bool
    notes: tuple[str, ...] = ()
    extractor: Callable[[], object] | None = field(default=None, compare=False, repr=False)

    @property
    def to_time(self) -> list[str]:
        """The runs of which the cost of a step has to be measured."""
        timed = [run for run in self.runs.values() if run.timed]
        return list(dict.fromkeys(n for run in timed for n in (run.name, run.as_long_as) if n is not None))

    def settled(self, costs: Mapping[str, float]) -> "Study":
        """The study with the lengths of all runs in steps.

        Args:
            costs: seconds of a step, of the runs `to_time`; a run of which they are not known stays as it is.
        """
        most, runs = self.most_steps or 2**62, dict(self.runs)
        for name, run in self.runs.items():
            if run.timed and {name, run.as_long_as or name} <= costs.keys():
                other = None if run.as_long_as is None else self.runs[run.as_long_as]
                seconds = run.seconds or 0.0 if other is None else other.steps * costs[other.name]
                runs[name] = run.of_steps(min(max(round(seconds / costs[name]), 1), most))
        return replace(self, runs=runs)

    def check_features(self) -> None:
        """Build the feature extractor, unless it waits for a run: what it lacks is told before anything else.

        Raises:
            ToolkitError: if it cannot be built.
        """
        if self.extractor is not None and not placeholders(self.protocol.get("features", {})):
            self.extractor()

    @property
    def rows(self) -> list[Row]:
        return [row for run in self.runs.values() for row in run.rows]

    def seed_of(self, name: str, seed: int) -> int:
        """The seed of the run that another one of that seed needs."""
        own = self.runs[name].seeds
        return seed if seed in own else own[0]

    def narrowed(self, only: Sequence[str]) -> "Study":
        """The study with some of its runs and what they need; with all if none is named.

        Raises:
            RecipeError: if there is no run of a name.
        """
        for name in only:
            if name not in self.runs:
                raise RecipeError(
                    f"--only {name}: the study has {', '.join(self.runs)}.{nearest(name, self.runs)}"
                )
        kept = {name: run for name, run in self.runs.items() if not only or name in only}
        needed = list(kept) + [name for name in placeholders(self.protocol) if only]
        for name in needed:
            run = self.runs[name]
            ways = placeholders([dict(row.parts) for row in run.rows if name in kept])
            others = [*run.after, *ways, *([run.as_long_as] if run.as_long_as else [])]
            needed += [other for other in others if other not in needed]
        runs = {
            name: replace(run, rows=run.rows if name in kept else ())
            for name, run in self.runs.items()
            if name in needed
        }
        return replace(self, runs=runs)

    def with_seeds(self, seeds: Sequence[int]) -> "Study":
        """The study with other seeds, but for runs that have their own."""
        runs = {
            name: replace(run, seeds=tuple(seeds)) if run.seeds == self.seeds else run
            for name, run in self.runs.items()
        }
        return replace(self, runs=runs, seeds=tuple(seeds))


def read_study(source: str, scale: str | None = None, overrides: Sequence[str] = ()) -> Study:
    """Read a study and everything that it names, before anything is computed.

    Args:
        source: the path of a .toml file, or the name of a packaged study.
        scale: one of its [scale.<name>].
        overrides: assignments to the recipes of all runs, as `--set` takes them.

    Raises:
        RecipeError: with a line for each problem of the file, of a run's recipe or of the protocol.
    """
    return study_of(read_layers(source, kind="study"), scale, overrides)


def study_of(layers: Layers, scale: str | None = None, overrides: Sequence[str] = ()) -> Study:
    """The study that layers describe; see `read_study`."""
    _refuse_no_tables(layers)
    layers = _scaled(layers, scale)
    registry = load_plugins().registry
    values = {name: table for name, table in layers.values.items() if name not in ("set", "scale")}
    _fill_in_types(values)
    if isinstance(values.get("runs"), dict):
        values["runs"] = {name: _plain(table) for name, table in values["runs"].items()}
    described = resolve(replace(layers, values=values), registry, SECTIONS)
    options: StudyOptions = described.common(("study",))
    runs: dict[str, RunOptions] = {
        name: described.common(("runs", name)) for name in described.tables["runs"]
    }
    reader = _Runs(layers, runs, options, overrides, scale)
    protocol = {
        name: described.tables[name] for name in ("images", "features", "metrics") if name in described.tables
    }
    for name in placeholders(protocol):
        reader.refuse_unknown(name, ("features",))
    planned = reader.all()
    comparisons = {name: described.common(("comparisons", name)) for name in described.tables["comparisons"]}
    study = Study(
        layers.name, options.title, about(layers.path), tuple(options.seeds), options.split, planned,
        protocol, comparisons, options.most_steps, options.ranked, tuple(reader.notes),
        partial(described.create, ("features",), {}) if "features" in described.tables else None,
    )  # fmt: skip
    _check_rows(study, layers)
    return study


def placeholders(value: Any) -> list[str]:
    """The names of runs in braces in all texts of a table."""
    return list(dict.fromkeys(name for text in _texts(value) for name in RUN.findall(text)))


def filled(value: Any, folder: Mapping[str, Path]) -> Any:
    """A table with the folders of runs in the place of their names in braces."""
    if isinstance(value, str):  # resolving has put the working directory in front
        return WITH_PREFIX.sub(lambda match: str(folder[match[1]]), value)
    if isinstance(value, Mapping):
        return {key: filled(inner, folder) for key, inner in value.items()}
    return [filled(inner, folder) for inner in value] if isinstance(value, list) else value


def about(path: Path | None) -> str:
    """The comment at the head of a file."""
    lines = [] if path is None else path.read_text(encoding="utf-8-sig").splitlines()
    head = lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return "\n".join(line.lstrip("#").removeprefix(" ") for line in head)


class _Runs:
    """The recipes of all runs, each after those that it needs."""

    def __init__(
        self, layers: Layers, runs: Mapping[str, RunOptions], study: StudyOptions, overrides: Sequence[str],
        scale: str | None,
    ) -> None:  # fmt: skip
        self.layers, self.runs, self.study, self.scale = layers, runs, study, scale
        self.flags = flag_layer(overrides)
        self.notes: dict[str, None] = {}  # several runs may give the same
        self._planned: dict[str, PlannedRun] = {}
        self._begun: list[str] = []

    def all(self) -> dict[str, PlannedRun]:
        """All runs, or one error with the problems of all."""
        problems: dict[str, None] = {}  # several runs may meet the same
        for name in self.runs:
            try:
                self.plan(name)
            except RecipeError as error:
                problems |= dict.fromkeys(str(error).splitlines())
                self._begun.clear()
        if problems:
            raise RecipeError("\n".join(problems))
        return {name: self._planned[name] for name in self.runs}

    def plan(self, name: str) -> PlannedRun:
        if name not in self._planned:
            if name in self._begun:
                raise RecipeError(
                    f"{self.where(('runs', name))} needs itself: {' -> '.join([*self._begun, name])}."
                )
            self._begun.append(name)
            self._planned[name] = self._plan(name, self.runs[name])
            self._begun.pop()
        return self._planned[name]

    def where(self, path: tuple[str, ...]) -> str:
        place = next(
            (
                self.layers.origins[path[:n]]
                for n in range(len(path), 0, -1)
                if path[:n] in self.layers.origins
            ),
            self.layers.shown_as,
        )
        return f"{place}: [{'.'.join(path)}]"

    def refuse_unknown(self, name: str, path: tuple[str, ...]) -> None:
        if name not in self.runs:
            raise RecipeError(f"{self.where(path)} the study has no run {name!r}.{nearest(name, self.runs)}")

    def _plan(self, name: str, options: RunOptions) -> PlannedRun:
        path = ("runs", name)
        ways = self.layers.within(*path, "samplers").values if options.scored else {}
        common, own = self.layers.within("set"), self.layers.within(*path, "set")
        for other in placeholders([common.values, own.values, ways]):
            self.refuse_unknown(other, path)
        after = [self.plan(other) for other in placeholders([common.values, own.values])]
        try:
            recipe = read_layers(options.recipe, folder=self._folder)
        except RecipeError as error:
            raise RecipeError(f"{self.where((*path, 'recipe'))} {error}") from None
        layers = recipe.over(QUIET)
        for layer in (common, self._length(name, options), own, self.flags):
            layers = layers.over(layer)
        tables = self._resolved(layers, name)
        self.notes |= dict.fromkeys(note for note in layers.notes if note not in recipe.notes)
        rows = [
            Row(name, way, _title(name, options, way), self._way(layers, name, way)) for way in ways or [""]
        ]
        seeds = tuple(options.seeds or self.study.seeds)
        for one in after:
            self._refuse_other_seeds(name, seeds, one)
        self._refuse_untimed(name, options, after)
        return PlannedRun(
            name, options.title or name, options.recipe, seeds, tables, tuple(one.name for one in after),
            tuple(rows) if options.scored else (), options.seconds, options.as_long_as,
        )  # fmt: skip

    @property
    def _folder(self) -> Path:
        return self.layers.path.parent if self.layers.path else Path()

    def _refuse_untimed(self, name: str, options: RunOptions, after: Sequence[PlannedRun]) -> None:
        """Refuse a length that cannot be known before anything is trained."""
        timed = options.seconds is not None or options.as_long_as is not None
        key = "seconds" if options.seconds is not None else "as_long_as"
        where = self.where(("runs", name, key))
        if timed and after:
            needs = ", ".join(one.name for one in after)
            raise RecipeError(f"{where} a step of it cannot be timed before {needs} is trained: state steps.")
        if options.as_long_as is not None:
            self.refuse_unknown(options.as_long_as, ("runs", name, key))
            other = self.runs[options.as_long_as]
            if other.seconds is not None or other.as_long_as is not None:
                raise RecipeError(f"{where} {options.as_long_as!r} has no length in steps itself.")
            if self.plan(options.as_long_as).after:
                raise RecipeError(
                    f"{where} a step of {options.as_long_as!r} cannot be timed now: it needs a run."
                )

    def _length(self, name: str, options: RunOptions) -> Layer:
        """The [run] that gives a run its length, set where the study sets it."""
        stated = {"steps": options.steps, "images": options.images}
        given = {key: value for key, value in stated.items() if value is not None}
        values: dict[str, Any] = {}
        if given:
            values = {"steps": "none", "images": "none", "minutes": "none", **given}
        if options.seconds is not None or options.as_long_as is not None:
            values = {"steps": UNTIL_TIMED, "images": "none", "minutes": "none"}
        if self.study.most_steps is not None:
            least = min(self.study.most_steps, options.steps or self.study.most_steps)
            values = {**values, "steps": least}
        place = self.where(("runs", name, *given)).rpartition(": ")[0]
        keys = [("run",), *(("run", key) for key in values)] if values else []
        return Layer(self.layers.shown_as, {"run": values} if values else {}, dict.fromkeys(keys, place))

    def _resolved(self, layers: Layers, name: str) -> dict[str, Any]:
        """The complete recipe of a run; networks of runs that are not trained yet have the planned ones."""
        written = layers.values.get("networks")
        networks: dict[str, Any] = written if isinstance(written, dict) else {}
        awaited = {
            role: (match[1], table) for role, table in networks.items()
            if isinstance(table, dict) and (match := RUN.fullmatch(str(table.get("from_run"))))
        }  # fmt: skip
        for role, (run, table) in awaited.items():
            theirs = self.plan(run).tables["networks"]
            trained = theirs.get("denoiser") or next(iter(theirs.values()))
            own = {key: value for key, value in table.items() if key != "from_run"}
            networks = {**networks, role: {**trained, **own}}
        if awaited:
            layers = replace(layers, values={**layers.values, "networks": networks})
        try:
            recipe = resolve(layers, load_plugins().registry)
        except RecipeError as error:
            said, place = (f"{self.layers.shown_as}:", "--set"), self.where(("runs", name))
            lines = (line if line.startswith(said) else f"{place} {line}" for line in str(error).splitlines())
            raise RecipeError("\n".join(lines)) from None
        tables = dict(recipe.tables)
        for role, (_, table) in awaited.items():
            whole = tables["networks"][role]
            kept = {key: whole[key] for key in table if key != "from_run"}
            tables["networks"] = {**tables["networks"], role: {"from_run": table["from_run"], **kept}}
        return tables

    def _way(self, layers: Layers, name: str, way: str) -> dict[str, Any]:
        """The tables of a way to sample, checked as tables of the recipe."""
        path = ("runs", name, "samplers", way)
        layer = self.layers.within(*path)
        for part in layer.values:
            if part not in PARTS:
                raise RecipeError(
                    f"{self.where((*path, part))} there is no {part!r}: a way to sample has "
                    f"{', '.join(PARTS)}.{nearest(part, PARTS)}"
                )
        if layer.values:
            self._resolved(layers.over(layer), name)
        return layer.values

    def _refuse_other_seeds(self, name: str, seeds: Sequence[int], needed: PlannedRun) -> None:
        if len(needed.seeds) > 1 and not set(seeds) <= set(needed.seeds):
            raise RecipeError(
                f"{self.where(('runs', name))} has seeds {list(seeds)}, and {needed.name!r}, which it needs, "
                f"has {list(needed.seeds)}: it must have all of these, or one for all."
            )


def _refuse_no_tables(layers: Layers) -> None:
    """Refuse anything but a table where values of recipes stand: nobody else looks at its kind."""
    values, wrong = layers.values, []

    def look(value: Any, *path: str, inner: bool = False) -> None:
        if value is None:
            return
        if not isinstance(value, dict):
            place = layers.origins.get(path, layers.shown_as)
            wrong.append(f"{place}: [{'.'.join(path[:-1])}] {path[-1]!r} must be a table, not {value!r}.")
        elif inner:
            for key, one in value.items():
                look(one, *path, key)

    look(values.get("set"), "set")
    look(values.get("scale"), "scale", inner=True)
    runs = values.get("runs")
    for name, run in runs.items() if isinstance(runs, dict) else ():
        if isinstance(run, dict):
            look(run.get("set"), "runs", name, "set")
            look(run.get("samplers"), "runs", name, "samplers", inner=True)
    if wrong:
        raise RecipeError("\n".join(line.replace(": [] ", ": ") for line in wrong))


def _scaled(layers: Layers, scale: str | None) -> Layers:
    if scale is None:
        return layers
    known = layers.values.get("scale")
    known = known if isinstance(known, dict) else {}
    if scale not in known:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise RecipeError(
            f"--scale {scale}: {layers.shown_as} has no [scale.{scale}]: {has}.{nearest(scale, known)}"
        )
    return layers.over(layers.within("scale", scale))


def _plain(table: Any) -> Any:
    """The options of a run's table, without what is read as tables of its recipe."""
    return (
        {key: value for key, value in table.items() if key not in FREE} if isinstance(table, dict) else table
    )


def _fill_in_types(values: dict[str, Any]) -> None:
    """[metrics.fid] needs not say that it is of type "fid"."""
    if isinstance(values.get("metrics"), dict):
        values["metrics"] = {
            name: {"type": name, **table} if isinstance(table, dict) else table
            for name, table in values["metrics"].items()
        }


def _title(name: str, options: RunOptions, way: str) -> str:
    title = options.title or name
    return f"{title}, {way}" if way else title


def _check_rows(study: Study, layers: Layers) -> None:
    """Refuse comparisons with what is not scored."""
    known = [row.key for row in study.rows]
    for name, comparison in study.comparisons.items():
        for key in (comparison.baseline, *(comparison.of or ())):
            if key not in known:
                place = layers.origins.get(("comparisons", name), layers.shown_as)
                raise RecipeError(
                    f"{place}: [comparisons.{name}] there is no {key!r}: the study scores {', '.join(known)}."
                    f"{nearest(key, known)}"
                )
    if not known:
        raise RecipeError(f"{layers.shown_as}: [runs] no run is scored.")
    slugs: dict[str, str] = {}
    for row in study.rows:
        if (other := slugs.setdefault(row.slug, row.key)) != row.key:
            place = layers.origins.get(("runs", row.run), layers.shown_as)
            raise RecipeError(
                f"{place}: [runs.{row.run}] {row.key!r} and {other!r} would be kept in files of one name: "
                f"{row.slug}. Call one of them otherwise."
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
