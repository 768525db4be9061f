"""Every recipe that comes with the toolkit builds; the small ones take a step, sample, save and load."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_pipeline import make

from toolkit.recipe import Recipe, read_layers, resolve
from toolkit.recipe.packaged import packaged
from toolkit.registry import load as plugins
from toolkit.runs.folder import RunFolder
from toolkit.training.build import build
from toolkit.training.check import check_recipe

SMALL = (
    "quickstart", "ddgan_digits", "ddpm_mnist", "ddgan_mnist", "ddpm_25gaussians", "ddgan_25gaussians",
    "ddpm_mnist_t200", "ddpm_small", "importance_small", "importance_extra2_small",
    "iwdiff_small", "iwdiff_uniform_small", "iwdiff_importance_small",
    "dcgan_mnist_small", "sngan_mnist_small",
    "improved_ddpm_small", "improved_ddpm_vlb_small",
    "mbconv_small",
    "classifier_mnist", "classifier_mnist16",
)  # fmt: skip
PARAMETERS = {
    "ddpm_cifar": {"denoiser": 35_746_307},
    "ddpm_cifar_t100": {"denoiser": 35_746_307},
    "ddpm_cifar_t100_fixed_small": {"denoiser": 35_746_307},
    "ddpm_cifar_deepres1": {"denoiser": 24_275_587},
    "ddpm_cifar_shallowres2": {"denoiser": 25_838_595},
    "ddpm_cifar_shallowres1": {"denoiser": 17_714_563},
    "ddpm_cifar_mbconv64": {"denoiser": 12_001_859},
    "ddpm_cifar_mbconv96": {"denoiser": 26_831_715},
    "ddpm_report_cifar": {"denoiser": 4_900_611},
    "importance_cifar": {"denoiser": 35_746_307},
    "importance_extra2_cifar": {"denoiser": 35_746_307},
    "iwdiff_cifar": {"denoiser": 35_746_307},
    "iwdiff_uniform_cifar": {"denoiser": 35_746_307},
    "iwdiff_importance_cifar": {"denoiser": 35_746_307},
    "improved_ddpm_cifar": {"denoiser": 52_546_438},
    "ddpm16_cifar": {"denoiser": 25_838_595},
    "surrogate_cifar": {"denoiser": 35_746_307},
    "classifier_cifar": {"classifier": 1_214_666},
    "dcgan_cifar": {"generator": 3_576_704, "discriminator": 2_765_568},
    "dcgan_cifar32": {"generator": 1_068_928, "discriminator": 663_296},
    "sngan_cifar": {"generator": 4_276_739, "discriminator": 1_053_824},
    "ddgan_cifar": {"denoiser": 48_432_515, "discriminator": 12_741_633},
    "ddgan_celebahq256": {"denoiser": 39_726_979, "discriminator": 27_737_217},
    "ddgan_lsun_church256": {"denoiser": 39_726_979, "discriminator": 27_737_217},
    "ddgan_stackedmnist": {"denoiser": 14_243_395, "discriminator": 12_741_633},
}
REAL_DATA = Path(__file__).parent.parent.parent / "shared" / "data"
NAMES = [recipe.name for recipe in packaged()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local stand-ins for MNIST, and for sets in colour, with CIFAR-10's columns: a few images of noise."""
    import datasets

    folder = tmp_path_factory.mktemp("data")
    for name, mode, side, column in (("mnist", "L", 28, "image"), ("cifar10", "RGB", 32, "img")):
        generator = torch.Generator().manual_seed(0)
        encoded = []
        for _ in range(12):
            pixels = torch.randint(256, (side, side, 3), generator=generator, dtype=torch.uint8).numpy()
            png = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(png, "PNG")
            encoded.append({"bytes": png.getvalue(), "path": None})
        features = datasets.Features(
            {column: datasets.Image(), "label": datasets.ClassLabel(names=[str(i) for i in range(10)])}
        )
        rows = {column: encoded, "label": [i % 10 for i in range(12)]}
        (folder / name / "data").mkdir(parents=True)
        table = datasets.Dataset.from_dict(rows, features=features)
        for split in ("train", "validation"):
            table.to_parquet(folder / name / "data" / f"{split}-00000-of-00001.parquet")
    make((3, 8, 8)).save_pretrained(folder / "model")  # for recipes that start from another run's
    return folder


def load(name: str, data: Path, *stated: str) -> Recipe:
    registry = plugins.load().registry.copy()
    tables = resolve(read_layers(name), registry).tables
    table, key = tables["data"], "data.path"
    if "surrogate" in tables.get("start", {}):
        stated = (*stated, f"start.surrogate={data / 'model'}")
    if table["type"] == "stacked_mnist":
        table, key = table["source"], "data.source.path"
    if table["type"] == "datasets":
        stated = (*stated, f"{key}={data / ('mnist' if 'mnist' in table['path'] else 'cifar10')}")
    return resolve(read_layers(name, stated), registry)


def test_the_recipes_of_every_method_are_packaged() -> None:
    assert {*SMALL, *PARAMETERS} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_begins_with_purpose_command_cost_and_expectation(name: str) -> None:
    path = next(recipe.path for recipe in packaged() if recipe.name == name)
    comment = [line for line in path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()]
    assert all(line.startswith("#") for line in comment)
    for word in ("Run:", "Cost:", "Expect:"):
        assert any(line.startswith(f"# {word}") for line in comment), f"{name} does not say {word}"


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_resolves_to_itself(name: str, data: Path, tmp_path: Path) -> None:
    recipe = load(name, data)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.describe(recipe, {})
    assert resolve(read_layers(folder.recipe), recipe.registry).tables == recipe.tables


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_builds_with_the_published_sizes(name: str, data: Path) -> None:
    built = build(load(name, data), torch.device("cpu"))
    counts = {role: sum(p.numel() for p in net.parameters()) for role, net in built.training.networks.items()}
    assert counts == PARAMETERS.get(name, counts)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_recipe_passes_its_check(name: str, data: Path) -> None:
    said: list[str] = []
    check_recipe(load(name, data), said.append)
    assert said[-1] in (
        "saved and loaded the pipeline: it samples the same",
        "saved and loaded network classifier: it is the same",
    )


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real data beside the checkout")
@pytest.mark.parametrize("name", ["ddpm_mnist", "ddgan_mnist"])
def test_a_small_recipe_passes_its_check_on_real_digits(name: str) -> None:
    said: list[str] = []
    check_recipe(load(name, REAL_DATA), said.append)
    assert "saved and loaded" in said[-1]
