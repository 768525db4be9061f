"""`toolkit data` looks at pictures, and `toolkit recipe new` writes a recipe that fits them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.recipe.writer import write_value

if TYPE_CHECKING:
    from toolkit.sources.survey import Survey

SIZES = (8, 16, 28, 32, 48, 64)  # more is a matter of patience and memory
WIDTHS = {"cpu": (16, 32, 48, 64), "gpu": (128, 256, 256, 256)}  # of a UNet's levels
LOWEST = 4  # side of the picture at the last of them
MINUTES = 5  # of training on a CPU


@click.command(short_help="Look at pictures before training on them.")
@click.argument("path")
@click.option(
    "--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Write thumbnails to this .png."
)
def data(path: str, sheet: Path | None) -> None:
    """Report what PATH holds: a folder of pictures, a folder that `datasets` can read, or a Hub id."""
    from toolkit.console import echo
    from toolkit.errors import RunError
    from toolkit.files import refuse_taken
    from toolkit.sources.survey import survey

    if sheet is not None:
        if sheet.suffix != ".png":
            raise RunError(f"--sheet {sheet}: thumbnails are written as .png")
        refuse_taken(sheet, False, "--sheet")
    found = survey(path)
    for line in found.lines():
        echo(line)
    if sheet is not None:
        write_sheet(found, sheet)
        echo(f"thumbnails: {sheet}")


def write_sheet(found: "Survey", path: Path) -> None:
    """The thumbnails of a survey in a square, on grey."""
    from PIL import Image

    from toolkit.files import writing
    from toolkit.sources.survey import SIDE

    columns = max(1, round(len(found.thumbnails) ** 0.5))
    rows = -(-len(found.thumbnails) // columns)
    page = Image.new("RGB", (columns * SIDE, rows * SIDE), (128, 128, 128))
    for i, small in enumerate(found.thumbnails):
        page.paste(small, (i % columns * SIDE, i // columns * SIDE))
    with writing(path):
        page.save(path)


@dataclass(frozen=True)
class Proposal:
    """What suits pictures of that size on this machine.

    Attributes:
        size: side of the pictures.
        widths: channels of the UNet's levels.
        batch_size: of a step.
    """

    size: int
    widths: list[int]
    batch_size: int


def proposed(side: int, accelerated: bool) -> Proposal:
    """The largest of `SIZES` that the pictures have, and as many levels as divide it."""
    size = max((size for size in SIZES if size <= side), default=SIZES[0])
    known = WIDTHS["gpu" if accelerated else "cpu"]
    widths = [w for level, w in enumerate(known) if size % 2**level == 0 and size >> level >= LOWEST]
    if accelerated:
        return Proposal(size, widths, 128)
    return Proposal(size, widths, 32 if size <= 32 else 16)


def new(out: Path, path: str, parent: str | None) -> None:
    """Look at the pictures, and write a recipe for them.

    Raises:
        ToolkitError: if `out` is taken, there are no pictures, or there is no such recipe.
    """
    from toolkit.console import say
    from toolkit.errors import RunError
    from toolkit.files import write_text
    from toolkit.recipe import read_layers
    from toolkit.sources.survey import survey

    if out.suffix != ".toml":
        raise RunError(f"{out}: a recipe is a .toml file")
    if out.exists() or out.is_symlink():
        raise RunError(f"{out}: is already there: choose another name")
    if parent is not None:
        read_layers(parent)  # whether there is one

    import torch

    found = survey(path)
    for line in found.lines():
        say(line)
    if parent is not None and (parent.endswith(".toml") or "/" in parent):
        parent = os.path.relpath(os.path.expanduser(parent), out.parent)  # `extends` starts at the file
        parent = parent if parent.endswith(".toml") or "/" in parent else f"./{parent}"
    accelerated = torch.accelerator.is_available()
    text = recipe_for(found, str(out), parent, accelerated)
    if parent is None and not accelerated:
        text = recipe_for(found, str(out), parent, accelerated, clock_seconds(text))
    write_text(out, text)
    say(f"written to {out}")
    say(f"  toolkit recipe check {out}")
    say(f"  toolkit train {out}")


def clock_seconds(text: str) -> float:
    """What a step of a recipe takes on this machine's processors, if nothing else keeps them busy."""
    import tempfile

    import torch

    from toolkit.console import say
    from toolkit.recipe import read_recipe
    from toolkit.training.pace import step_seconds

    say("timing a few steps ...")
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "draft.toml")
        recipe.write_text(text)
        (seconds,) = step_seconds({"draft": read_recipe(recipe)}, turns=5).values()
    return seconds / torch.get_num_threads()


def recipe_for(
    found: "Survey", name: str, parent: str | None, accelerated: bool, seconds: float | None = None
) -> str:
    """The text of a recipe for what a survey found; as many steps of so many seconds as take `MINUTES`."""
    from toolkit.data.source import counted

    plan = proposed(found.short_side, accelerated)
    extends, several = parent or suited(accelerated), found.grey not in (0, sum(found.sizes.values()))
    levels, broken = len(plan.widths), len(found.unreadable)
    lines = [
        f"# {counted(found.number, 'picture')} of {found.table['path']}, at {plan.size}x{plan.size}.",
        f"# Run:      toolkit train {name}",
        f"# Every value, and where it comes from:  toolkit recipe show {name} --origin",
        "",
        f"extends = [{write_value(extends)}]",
        "",
        "[run]",
        line("batch_size", plan.batch_size),
        *([line("steps", *length(seconds))] if parent is None else []),  # else as long as its parent
        "",
        "[data]",
        *(line(key, value) for key, value in found.table.items()),
        line("size", plan.size),
        line("fit", "crop", 'or "resize", "pad"'),
        *([line("channels", 3, f"{found.grey:,} are greyscale")] if several else []),
        *([line("on_error", "skip", f"{counted(broken, 'picture')} cannot be read")] if broken else []),
        *([line("held_out_fraction", 0.1, "kept for measuring")] if found.table["type"] == "folder" else []),
        line("# flip", True, "also mirrored, where left and right do not matter"),
    ]
    if parent is None:
        lines += [
            "",
            "[networks.denoiser]",
            line("block_out_channels", plan.widths),
            line("down_block_types", ["DownBlock2D"] * (levels - 1) + ["AttnDownBlock2D"]),
            line("up_block_types", ["AttnUpBlock2D"] + ["UpBlock2D"] * (levels - 1)),
            *(
                [line("# conditional", True, "learn the classes; --label samples them")]
                if found.classes
                else []
            ),
            "",
            "[optimizers.denoiser.lr_schedule]",
            line("type", "cosine"),
            line("warmup", 100),
            line("steps", "run"),
            "",
            "[sampler]",
            line("type", "ddim"),
            line("clip", True),
            line("num_inference_steps", 50),
            "",
            "[samples]",
            line("num", 16, "in a grid"),
        ]
    return "\n".join(lines) + "\n"


def length(seconds: float | None) -> tuple[int, str]:
    """A number of steps, and why so many."""
    if seconds is None:
        return 100_000, ""
    steps = max(300, round(60 * MINUTES / seconds, -1))
    return int(steps), f"about {steps * seconds / 60:.0f} minutes here, at {seconds:.2g} s each"


def suited(accelerated: bool) -> str:
    """The first packaged recipe whose comment says that it suits pictures of one's own on such a machine.

    Raises:
        RunError: if none does.
    """
    from toolkit.errors import RunError
    from toolkit.recipe.packaged import packaged

    machine = f"own pictures on a {'GPU' if accelerated else 'CPU'}"
    for recipe in packaged():
        if recipe.said("Suits") == machine:
            return recipe.name
    raise RunError(f"no packaged recipe says that it suits {machine}: name one by --from")


def line(key: str, value: object, comment: str = "") -> str:
    """`key = value`, with a comment beside it."""
    text = f"{key} = {write_value(value)}"
    return f"{text:<31} # {comment}" if comment else text
