"""How many of 25 Gaussians runs cover, how sharply, and a picture of their samples beside the data.

    toolkit train ddgan_25gaussians && toolkit train ddpm_25gaussians
    python benchmarks/gaussians25.py runs/ddgan_25gaussians runs/ddpm_25gaussians --out gaussians25.png

A sample counts as precise within 3 standard deviations of the nearest mode, and a mode as covered if at least
20 samples of 10,000 are precise there: the metric `modes25`. Of the data itself 98.9 % are: 1 - exp(-9 / 2).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import toolkit
from toolkit_points.grid import Grid

SPREAD = 0.05  # standard deviation of a mode
SIDE, HALF = 400, 2.75  # a panel in pixels, and what it shows: [-HALF, HALF]^2


def panel(points: np.ndarray, title: str) -> Image.Image:
    """Points as dots on white, darker where there are more."""
    pixels = np.floor((points * [1, -1] + HALF) / (2 * HALF) * SIDE).astype(int)
    inside = ((pixels >= 0) & (pixels < SIDE)).all(axis=1)
    counts = np.zeros((SIDE, SIDE))
    np.add.at(counts, (pixels[inside, 1], pixels[inside, 0]), 1)
    sheet = Image.new("L", (SIDE, SIDE + 24), 255)
    sheet.paste(Image.fromarray((255 * 0.55**counts).astype(np.uint8)), (0, 24))
    drawing = ImageDraw.Draw(sheet)
    drawing.text((SIDE / 2, 12), title, fill=0, anchor="mm")
    drawing.rectangle((0, 24, SIDE - 1, SIDE + 23), outline=160)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("--num", type=int, default=10_000, help="samples of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gaussians25.png"))
    chosen = parser.parse_args()

    torch.manual_seed(chosen.seed)
    grid = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    data = grid[torch.randint(25, (chosen.num,))] + SPREAD * torch.randn(chosen.num, 2)
    samples = {"data": data.numpy()}
    for run in chosen.runs:
        pipeline = toolkit.load(run)
        name = f"{Path(run).name}, {pipeline.calls} network calls"
        samples[name] = pipeline.draw(None, chosen.num).cpu().numpy()

    for name, points in samples.items():
        found = Grid(std=SPREAD).judge(torch.from_numpy(points))
        print(
            f"{name:45} {found.modes:2} of 25 modes, {found.precise:6.1%} within 3 standard deviations, "
            f"and there of standard deviation {found.spread:.3f}"
        )
    sheet = Image.new("L", (len(samples) * (SIDE + 8) - 8, SIDE + 24), 255)
    for i, (name, points) in enumerate(samples.items()):
        sheet.paste(panel(points, name), (i * (SIDE + 8), 0))
    sheet.save(chosen.out)
    print(chosen.out)


if __name__ == "__main__":
    main()
