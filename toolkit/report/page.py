"""The report: a page that works offline, in which everything is embedded."""

import base64
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import torch

from toolkit.differences import differences
from toolkit.errors import RunError
from toolkit.files import write_text, writing
from toolkit.ranking import columns, footnotes, labels, stale_notes
from toolkit.registry import Registry
from toolkit.report import facts, figures
from toolkit.report.samples import Samples
from toolkit.report.sections import losses, quality
from toolkit.report.table import summary_table
from toolkit.summary import RunSummary

META = f'<meta name="generator" content="{figures.GENERATOR} '
TEMPLATE = Path(__file__).with_name("page.html.jinja")


def write_report(
    runs: Sequence[RunSummary],
    out: Path,
    png: Path | None,
    samples: int,
    device: torch.device,
    registry: Registry,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Write the page, and its pictures as files of their own if `png` names a folder.

    Args:
        samples: of each run; 0 leaves out what needs its model.
        say: is told what is being done.

    Raises:
        RunError: if something else than a report is at `out`, or than its pictures in `png`, or if they
            cannot be written.
    """
    with writing(out):  # looking may be forbidden too
        ours = out.is_file() and META in out.read_text(encoding="utf-8", errors="replace")
        foreign = out.exists() and not ours
    if foreign:
        raise RunError(f"--out {out}: is already there, and is no report: choose another file")
    names, found = labels(runs), columns(runs)
    looks = figures.styles(names)
    sampled = Samples(runs, looks, samples, device, registry, say)
    stated = {place: facts.parameters(run) for place, run in enumerate(runs)}
    parameters = {**{place: n for place, n in stated.items() if n is not None}, **sampled.parameters}
    sections = [
        losses(runs, looks), sampled.grids, sampled.forward, sampled.denoising,
        *quality(runs, looks, found, parameters),
    ]  # fmt: skip
    between = list(differences([run.recipe for run in runs], ignored=("run.out",)))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        generator=figures.GENERATOR,
        version=importlib.metadata.version("diffusion-toolkit"),
        made=time.strftime("%Y-%m-%d %H:%M"),
        looks=looks,
        table=summary_table(runs, found, parameters),
        footnotes=[
            *footnotes([column for column in found if not column.comparable]),
            *stale_notes(runs, names),
        ],
        differing=[d for d in between if not d.lacking],
        lacking=[d for d in between if d.lacking],
        sections=sections,
        data=lambda picture: base64.b64encode(picture.png).decode("ascii"),
    )
    if png is not None:
        figures.write([picture for section in sections for _, picture in section.pictures], png)
    write_text(out, page)
