"""`toolkit import`: a pipeline from the weights of another code base."""

from pathlib import Path

import click


@click.command("import", short_help="Make a pipeline from the weights of another code base.")
@click.argument("importer")
@click.argument("file")
@click.argument("out")
@click.option("--preset", help="The published run whose weights FILE holds, if the importer knows several.")
@click.option("--set", "options", multiple=True, metavar="NAME=VALUE", help="Another option of the importer.")
@click.option("--overwrite", is_flag=True, help="Replace the pipeline at OUT.")
def import_weights(
    importer: str, file: str, out: str, preset: str | None, options: tuple[str, ...], overwrite: bool
) -> None:
    """Read FILE with IMPORTER, one of those that `toolkit plugins` lists, and write a pipeline folder OUT.

    Where FILE leaves open which network or chain it is of, an option says it. Code in FILE is never executed.
    """
    from toolkit.cli.sample import refuse_to_replace

    target = Path(out)
    refuse_to_replace(target, overwrite)

    from toolkit.console import say
    from toolkit.pipeline.importer import Importer, import_pipeline
    from toolkit.recipe.layers import read_flags
    from toolkit.registry import load as plugins

    registry = plugins.load().registry
    table = read_flags(options) | {"type": importer} | ({} if preset is None else {"preset": preset})
    reader = registry.create(Importer, table, supplied={}, where=lambda path: "toolkit import:")
    pipeline = import_pipeline(reader, Path(file), registry)
    pipeline.save_pretrained(target)
    say(f"{pipeline}: {target}")
    say(f"  toolkit sample {target} --num 64 --out grid.png", "try next")
