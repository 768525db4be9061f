"""`toolkit train`: from a recipe to a run folder."""

import shlex
import signal

import click


@click.command(short_help="Train a model by a recipe.")
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one value of the recipe.")
@click.option(
    "--resume", is_flag=True, help="Continue from the newest complete checkpoint in the run folder."
)
@click.option("--overwrite", is_flag=True, help="Replace a run that is already in the run folder.")
def train(recipe: str, overrides: tuple[str, ...], resume: bool, overwrite: bool) -> None:
    """Train a model by RECIPE, a .toml file or the name of a packaged recipe.

    The run folder is [run] out, by default runs/<recipe>. On several GPUs: accelerate launch -m toolkit train
    RECIPE. On two CPU processes: torchrun --nproc_per_node 2 -m toolkit train RECIPE.
    """
    if resume and overwrite:
        raise click.UsageError("--resume keeps a run and --overwrite replaces it: give one of them")
    from toolkit.recipe import read_layers, resolve

    layers = read_layers(recipe, overrides)  # before anything heavy is imported: a typo answers at once

    from toolkit.console import console, say
    from toolkit.registry import load as plugins
    from toolkit.training.loop import train as run

    loaded = plugins.load()
    resolved = resolve(layers, registry=loaded.registry)
    for note in resolved.notes:
        say(note, "note")
    again = shlex.join(["toolkit", "train", recipe, *(f"--set={value}" for value in overrides), "--resume"])
    try:
        outcome = run(resolved, loaded, resume=resume, overwrite=overwrite)
    except KeyboardInterrupt:
        say(f"interrupted at once; go on from the last checkpoint with   {again}")
        raise SystemExit(128 + signal.SIGINT) from None
    if not outcome.main:
        return
    folder = outcome.folder
    if outcome.signal is not None:
        name = signal.Signals(outcome.signal).name
        say(f"stopped by {name} at step {outcome.step}; everything is saved in {folder}")
        say(f"go on with   {again}")
        raise SystemExit(128 + outcome.signal)
    console.print("[green]done[/]", end=" ")
    say(f"step {outcome.step}; everything is in {folder}")
    if outcome.grid is not None:
        say(f"  samples     {outcome.grid}")
    say(f"  metrics     {folder / 'metrics.jsonl'}")
    say(f"  checkpoints {folder / 'checkpoints'}")
    if (folder / "pipeline").is_dir():
        say(f"  pipeline    {folder / 'pipeline'}")
        say("try next")
        say(f"  toolkit sample {shlex.quote(str(folder))} --num 64 --out grid.png")
        code = f'import toolkit; toolkit.load("{folder}")(4).images[0].save("one.png")'
        say(f"  python -c {shlex.quote(code)}")
    elif (folder / "networks").is_dir():
        say(f"  networks    {folder / 'networks'}")
