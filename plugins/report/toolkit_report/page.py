"""The report: a page with everything embedded, so that it works offline."""

import base64
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import torch

from toolkit.commands import RunError, RunSummary, write_text, writing
from toolkit_report import facts, figures
from toolkit_report.differences import differences
from toolkit_report.ranking import columns, footnotes, labels, notes_on
from toolkit_report.samples import Samples
from toolkit_report.sections import losses, of_scores, quality
from toolkit_report.table import summary_table

META = f'<meta name="generator" content="{figures.GENERATOR} '
TEMPLATE = Path(__file__).with_name("page.html.jinja")


def write_report(
    runs: Sequence[RunSummary],
    out: Path,
    png: Path | None,
    samples: int,
    device: torch.device,
    say: Callable[[str], None] = lambda text: None,
    left_out: Sequence[str] = (),
) -> None:
    """Write the page, and its pictures as files of their own if `png` names a folder.

    Among the files is one with the samples of all runs side by side.

    Args:
        samples: how many of each run; 0 leaves out the parts that need its model.
        say: called with a line about what is being done.
        left_out: a sentence about each run that could not be read.

    Raises:
        RunError: if anything but a report is at `out`, if files that are not a report's are in the way in
            `png`, or if they cannot be written.
    """
    with writing(out):  # even looking may be forbidden
        ours = out.is_file() and META in out.read_text(encoding="utf-8", errors="replace")
        foreign = out.exists() and not ours
    if foreign:
        raise RunError(f"--out {out}: is already there, and is not a report: choose another file")
    names, score_columns = labels(runs), columns(runs)
    looks = figures.styles(names)
    score = next((column for column in score_columns if column.better), None)
    sampled = Samples(runs, looks, score, samples, device, say) if samples else None
    counts = {place: facts.parameters(run) for place, run in enumerate(runs)}
    parameters = {place: n for place, n in counts.items() if n is not None}
    if sampled is not None:
        parameters |= sampled.parameters
    drawn = [
        losses(runs, looks),
        *([] if sampled is None else [sampled.grids, sampled.forward, sampled.denoising]),
        *quality(runs, looks, score_columns, parameters),
        of_scores(runs, looks),
    ]
    sections = [section for section in drawn if section.pictures]
    between = list(differences([run.recipe for run in runs], ignored=("run.out",)))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        generator=figures.GENERATOR,
        version=importlib.metadata.version("diffusion-toolkit"),
        made=time.strftime("%Y-%m-%d %H:%M"),
        looks=looks,
        table=summary_table(runs, score_columns, parameters),
        footnotes=[
            *footnotes([column for column in score_columns if not column.comparable]),
            *notes_on(runs, names),
            *without_cost(runs, names),
            *left_out,
        ],
        empty=[note for section in drawn if not section.pictures for note in section.notes],
        differing=[d for d in between if not d.lacking],
        lacking=[d for d in between if d.lacking],
        sections=sections,
        data=lambda png: f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}",
    )
    if png is not None:
        slide = sampled.slide if sampled is not None else None
        pictures = [picture for section in sections for _, picture in section.pictures]
        figures.write([slide, *pictures] if slide is not None else pictures, png)
    write_text(out, page)


def without_cost(runs: Sequence[RunSummary], names: Sequence[str]) -> list[str]:
    """A sentence on the runs whose sampling time is not known, where that of others is."""
    unknown = [name for run, name in zip(runs, names, strict=True) if run.cost is None]
    if not unknown or len(unknown) == len(runs):
        return []
    return [f"Sampling time and network calls of {', '.join(unknown)}: toolkit cost RUN measures them."]
