"""`toolkit push`: a trained model to the Hugging Face Hub."""

import click


@click.command(short_help="Upload a trained model to the Hugging Face Hub.")
@click.argument("source", metavar="RUN")
@click.argument("repo_id")
@click.option("--private", is_flag=True, help="Make the repository private, if it is created now.")
@click.option("--revision", help="A branch of the repository, by default the main one.")
@click.option("--dry-run", is_flag=True, help="Only list what would be uploaded.")
def push(source: str, repo_id: str, private: bool, revision: str | None, dry_run: bool) -> None:
    """Upload the pipeline of RUN, a run folder or a pipeline folder, to REPO_ID, e.g. me/digits.

    The pipeline is loaded first, to make sure that it can be. Whoever has the plugins that it names can load
    it with toolkit.load("me/digits").
    """
    from toolkit import Pipeline, load_plugins, locate
    from toolkit.commands import RunError, echo, say
    from toolkit_hub.publish import files_to_publish, publish

    folder = locate(source, load_plugins().registry)
    if not (folder / "pipeline.json").is_file():
        raise RunError(
            f"{folder}: is not a pipeline of this toolkit: toolkit sample {source} --save makes one"
        )
    Pipeline.from_pretrained(folder)
    files = files_to_publish(folder)
    for file in files:
        echo(f"{file.stat().st_size:>14,}  {file.relative_to(folder).as_posix()}")
    total = f"{len(files)} files, {sum(file.stat().st_size for file in files) / 2**20:.1f} MiB"
    if dry_run:
        say(f"{total} would go to {repo_id}; nothing was uploaded")
        return
    address = publish(folder, repo_id, private=private, revision=revision)
    say(f"{total}: {address}")
