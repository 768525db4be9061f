"""`toolkit export`: a trained network as one file, for other programs."""

from pathlib import Path
from typing import Literal

import click

from toolkit.commands import new_file, refuse_taken, write_json


@click.command(short_help="Export a network for torch.export or ONNX.")
@click.argument("source", metavar="RUN")
@click.option("--format", "kind", type=click.Choice(["torch", "onnx"]), default="onnx", show_default=True)
@click.option(
    "--part", type=click.Choice(["denoiser", "decoder"]), default="denoiser", show_default=True,
    help="The network that estimates x_0, or the decoder of a model of latents.",
)  # fmt: skip
@click.option("--any-size", is_flag=True, help="Leave height and width open, where the network does.")
@click.option("--weights", type=click.Choice(["ema", "raw"]), help="As for toolkit sample.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The file; by default RUN's name and .onnx or .pt2."
)
@click.option("--overwrite", is_flag=True, help="Replace what is at --out.")
def export(
    source: str, kind: Literal["torch", "onnx"], part: Literal["denoiser", "decoder"], any_size: bool,
    weights: Literal["ema", "raw"] | None, out: Path | None, overwrite: bool,
) -> None:  # fmt: skip
    """Export the denoiser of RUN, a run folder or anything that `toolkit sample` takes, to one file.

    The file is read back and compared with the network, on another number of examples. A JSON file beside
    it says what goes in and comes out, and at which times and noise levels the model's own sampler calls it.
    """
    out = out or Path(f"{Path(source).resolve().name}{'.onnx' if kind == 'onnx' else '.pt2'}")
    description = out.with_name(f"{out.name}.json")
    for target in (out, description):
        refuse_taken(target, overwrite, "--out")
    from toolkit import Pipeline
    from toolkit.commands import say
    from toolkit_export.network import describe, part_of
    from toolkit_export.writing import FORMATS, compare, most_at_once, traced

    write, read = FORMATS[kind]
    pipeline = Pipeline.from_pretrained(source, weights)
    network = part_of(pipeline, part)
    program = traced(network, any_size)
    with new_file(out) as temporary:
        write(program, network, temporary)
        difference, tolerance = compare(network, read(temporary), any_size)
    write_json(description, describe(pipeline, network, kind, any_size))
    say(f"{network.name} in {out} ({out.stat().st_size / 2**20:.1f} MiB), described by {description.name}")
    say(f"it differs from the original by at most {difference:.1e}; {tolerance:.1e} is allowed")
    most = most_at_once(program) if kind == "torch" else None
    limit = [f"it takes at most {most} examples at once"] * (most is not None)
    for note in (*limit, *network.notes):
        say(note, "note")
