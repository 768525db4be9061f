"""`toolkit train`: from a recipe to a run folder."""

import signal

import click


@click.command(short_help="Train what a recipe says.")
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one value of the recipe.")
@click.option("--resume", is_flag=True, help="Go on from the newest complete checkpoint of the run folder.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is already in the run folder.")
def train(recipe: str, overrides: tuple[str, ...], resume: bool, overwrite: bool) -> None:
    """Train what RECIPE says, a file or the name of a packaged recipe.

    The run folder is [run] out, by default runs/<recipe>. On several GPUs: accelerate launch -m toolkit train
    RECIPE. On two CPU processes: torchrun --nproc_per_node 2 -m toolkit train RECIPE.
    """
    if resume and overwrite:
        raise click.UsageError("--resume keeps a run and --overwrite replaces it: give one of them")
    from toolkit.recipe import read_layers, resolve

    layers = read_layers(recipe, overrides)  # before anything heavy is imported: a typo answers at once

    from toolkit import plugins
    from toolkit.console import console
    from toolkit.train import train as run

    loaded = plugins.load()
    resolved = resolve(layers, registry=loaded.registry)
    for note in resolved.notes:
        console.print(f"[yellow]note[/] {note}")
    outcome = run(resolved, loaded, resume=resume, overwrite=overwrite)
    if not outcome.main:
        return
    folder = outcome.folder
    if outcome.signal is not None:
        name = signal.Signals(outcome.signal).name
        console.print(f"stopped by {name} at step {outcome.step}; everything is saved in {folder}")
        console.print(f"go on with   toolkit train {recipe} {_again(overrides)}--resume")
        raise SystemExit(128 + outcome.signal)
    console.print(f"[green]done[/] step {outcome.step}; everything is in {folder}")
    if outcome.grid is not None:
        console.print(f"  samples     {outcome.grid}")
    console.print(f"  metrics     {folder / 'metrics.jsonl'}")
    console.print(f"  checkpoints {folder / 'checkpoints'}")
    if (folder / "pipeline").is_dir():
        console.print(f"  pipeline    {folder / 'pipeline'}")
        console.print("try next")
        console.print(f"  toolkit sample {folder} --num 64 --sampler ddim --steps 50 --out grid.png")
        console.print(
            f'  python -c \'import toolkit; toolkit.load("{folder}")(4).images[0].save("one.png")\''
        )


def _again(overrides: tuple[str, ...]) -> str:
    return "".join(f"--set '{override}' " for override in overrides)
