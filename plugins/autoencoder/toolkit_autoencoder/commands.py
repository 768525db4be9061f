"""`toolkit reconstruct`: what an autoencoder loses."""

from pathlib import Path

import click

from toolkit.commands import RunError, choose_device, device_option, new_file, refuse_taken

BATCH = 64


@click.command(short_help="Show what an autoencoder makes of held-out images.")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--num", default=32, show_default=True, type=click.IntRange(min=1), help="How many images.")
@click.option("--data", metavar="RECIPE", help="Whose [data] to take them from; by default that of the run.")
@device_option
@click.option(
    "--out", default="pairs.png", show_default=True, type=click.Path(path_type=Path), help="The picture."
)
@click.option("--overwrite", is_flag=True, help="Replace what is at --out.")
def reconstruct(
    folder: Path, num: int, data: str | None, device: str | None, out: Path, overwrite: bool
) -> None:
    """Write a grid of held-out images, each beside what the autoencoder of RUN makes of it.

    Also their mean absolute error, on [-1, 1], and their peak signal-to-noise ratio.
    """
    refuse_taken(out, overwrite, "--out")
    if data is None and not (folder / "recipe.toml").is_file():
        raise RunError(f"{folder}: has no recipe.toml, whose [data] to take: name one by --data")
    import torch

    from toolkit import TrainedEncoder, read_data, to_float, to_grid
    from toolkit.commands import say
    from toolkit_autoencoder.objective import psnr

    where = torch.device(choose_device(device))
    encoder = TrainedEncoder(folder).eval().requires_grad_(False).to(where)
    source = read_data(data or folder / "recipe.toml")
    try:
        encoder.latent_shape(source.image_shape)
    except ValueError as error:
        raise RunError(f"{folder}: {error}") from None
    examples = source.held_out() or source
    images = to_float(examples.read(torch.arange(min(num, len(examples))))[0])
    with torch.inference_mode():
        parts = [encoder.decode(encoder.encode(part.to(where))).cpu() for part in images.split(BATCH)]
    again = torch.cat(parts).clamp(-1, 1)
    with new_file(out) as temporary:
        to_grid(torch.cat([images, again], dim=-1)).save(temporary, format="PNG")
    l1, ratio = float((images - again).abs().mean()), float(psnr(images, again).mean())
    say(f"{len(images)} images beside their reconstructions, L1 {l1:.4f}, PSNR {ratio:.1f} dB: {out}")
