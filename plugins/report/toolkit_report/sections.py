"""The parts of a report that need only the runs' files: losses, quality and cost, pictures of scores."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from toolkit.commands import RunSummary
from toolkit_report import facts, plots
from toolkit_report.figures import Picture, Style, as_it_is
from toolkit_report.ranking import Column


@dataclass(frozen=True)
class Section:
    """A heading, pictures with captions, and sentences below them."""

    title: str
    intro: str
    pictures: list[tuple[str, Picture]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    beside: bool = False  # pictures side by side


def losses(runs: Sequence[RunSummary], looks: Sequence[Style]) -> Section:
    section = Section(
        "Losses",
        "As recorded while training. Losses of different objectives measure different things, and have "
        f"pictures of their own. Where a run has {plots.MANY} records or more, the line is their mean over "
        f"{plots.WINDOW}.",
    )
    for name in plots.loss_names(runs):
        groups = facts.by_objective(runs, [i for i, run in enumerate(runs) if run.last(name) is not None])
        for words, places in groups.items():
            title = f"{name} of {words}" if len(groups) > 1 else name
            file = slug(f"loss-{title.replace('/loss', '', 1)}")
            members = [runs[i] for i in places], [looks[i] for i in places]
            section.pictures.append((title, plots.losses(*members, name, file)))
    if not section.pictures:
        section.notes.append("No run has recorded a loss.")
    return section


def of_scores(runs: Sequence[RunSummary], looks: Sequence[Style]) -> Section:
    """What metrics have drawn beside their scores, such as samples beside their nearest training images."""
    section = Section("Pictures of scores", "Drawn by metrics when they were measured.")
    for run, look in zip(runs, looks, strict=True):
        for score in run.scores:
            file = score.path_in(run.path / "scores").with_suffix(".png")
            if not file.exists() or file.is_symlink():
                continue
            value = next((f"{name} {number:.4g}" for name, number in score.values.items()), score.metric)
            title = ", ".join(filter(None, (f"{look.name}: {value}", facts.sampled(score), *score.notes)))
            try:
                with Image.open(file, formats=["PNG"]) as image:
                    drawn = as_it_is(image, slug(f"{score.metric}-{look.name}"), title)
            except Exception as error:  # of damaged files Pillow raises a dozen kinds
                section.notes.append(f"{look.name}: {file.name} cannot be read: {error}")
            else:
                section.pictures.append((title, drawn))
    return section


def quality(
    runs: Sequence[RunSummary],
    looks: Sequence[Style],
    score_columns: Sequence[Column],
    parameters: Mapping[int, int],
) -> Iterator[Section]:
    """Scores against sampling time, and against what the model costs."""
    unit, length = facts.time_unit([facts.train_seconds(run) or 0.0 for run in runs])

    def training(run: int) -> float | None:
        took = facts.train_seconds(runs[run])
        return None if took is None else took / length

    costs = (
        plots.Axis("parameters", lambda run: parameters.get(run)),
        plots.Axis("training speed (images/s)", lambda run: facts.train_speed(runs[run])),
        plots.Axis(f"training time ({unit})", training),
    )
    time_section = Section(
        "Quality against sampling time",
        "Seconds for one image, as the run's cost card measured them for the sampler that its pipeline was "
        "saved with; scores of other samplers are left out.",
    )
    cost_section = Section(
        "Quality against cost",
        "Parameters of the network that is sampled; training speed and time as the runs recorded them, or "
        "as their cost cards did. Compare times only of runs on the same machine.",
    )
    for column in score_columns:
        if column.better is None:
            continue

        def sampling(run: int, column: Column = column) -> float | None:
            own = run in column.scores and facts.sampled_as_saved(runs[run], column.scores[run])
            return facts.seconds_per_image(runs[run]) if own else None

        at = (plots.Axis("sampling time (s per image)", sampling, log=True),)
        for section, axes, kind in ((time_section, at, "time"), (cost_section, costs, "cost")):
            name = f"quality-{kind}-{column.name}"
            if column.key in [c.key for c in score_columns if c is not column]:
                name += f"-{column.fingerprints[0]}"
            shows = f"{column.name} against {', '.join(axis.title for axis in axes)}"
            drawn, missing = plots.quality(column, axes, looks, slug(name), shows)
            if drawn is not None:
                section.pictures.append((column.name, drawn))
            if missing:
                section.notes.append(f"{column.name}: no run has a number for {', '.join(missing)}.")
            if not column.comparable:
                section.notes.append("Letters are protocols: scores by different ones cannot be compared.")
    if not any(column.better for column in score_columns):
        cost_section.notes.append("No run has a score that ranks: toolkit evaluate measures them.")
    elif not time_section.pictures:
        time_section.notes.append("Cost cards say how long sampling takes: toolkit cost RUN measures one.")
    for section in (time_section, cost_section):
        section.notes[:] = dict.fromkeys(section.notes)
        yield section


def slug(text: str) -> str:
    """The text as the name of a file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "run"
