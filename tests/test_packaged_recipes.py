"""Every recipe that comes with the toolkit builds; the small ones take a step, sample, save and load."""

import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_pipeline import make

from toolkit.pipeline.folder import Saved, SavedNetwork
from toolkit.recipe import Recipe, read_layers, resolve
from toolkit.recipe.packaged import packaged
from toolkit.recipe.toml import KeyPath
from toolkit.registry import load as plugins
from toolkit.registry.tables import Table
from toolkit.runs.folder import RunFolder
from toolkit.training.build import build
from toolkit.training.check import check_recipe

SMALL = (
    "quickstart", "ddgan_digits", "ddpm_mnist", "ddgan_mnist", "ddpm_25gaussians", "ddgan_25gaussians",
    "flow_25gaussians", "ddpm_mnist_t200", "ddpm_small", "importance_small", "importance_extra2_small",
    "iwdiff_small", "iwdiff_uniform_small", "iwdiff_importance_small",
    "dcgan_mnist_small", "sngan_mnist_small", "r3gan_mnist_small", "sagan_mnist_small",
    "progressive_mnist_small", "diffusion_gan_mnist_small", "gan_25gaussians", "r3gan_25gaussians",
    "improved_ddpm_small", "improved_ddpm_vlb_small",
    "mbconv_small", "flow_digits", "edm_digits", "posthoc_ema_digits", "dit_digits",
    "meanflow_digits", "meanflow_25gaussians",
    "consistency_digits", "consistency_distill_digits", "consistency_25gaussians", "consistency_mnist",
    "ddpm_25gaussians_t1000", "dmd_digits", "dmd_25gaussians",
    "tdpm_digits", "tdpm_25gaussians",
    "classifier_mnist", "classifier_mnist16",
    "autoencoder_mnist", "ddpm_mnist_latent", "ddgan_mnist_latent", "vae_mnist_small",
)  # fmt: skip
SAMPLED = ("denoiser", "generator", "student", "classifier", "autoencoder")  # the first of them is sampled
DISTILLED = ("student", "teacher", "fake_score")
# By role. Where a paper or its code says a number it is that one; the others were counted when the recipe
# was written, so that no change of a default resizes a network unnoticed.
PARAMETERS = {
    "quickstart": {"denoiser": 701_345},
    "ddpm_mnist": {"denoiser": 1_112_801},
    "ddpm_mnist_t200": {"denoiser": 1_112_801},
    "ddpm_mnist_conditional": {"denoiser": 1_112_801 + 11 * 128},  # ten classes and none, embedded
    "ddpm_25gaussians": {"denoiser": 35_714},
    "flow_25gaussians": {"denoiser": 35_714},
    "ddpm_25gaussians_t1000": {"denoiser": 35_714},
    "ddpm_small": {"denoiser": 453_793},
    "ddpm_t1000_small": {"denoiser": 453_793},
    "ddpm8_small": {"denoiser": 176_849},
    "ddpm_cifar": {"denoiser": 35_746_307},
    "ddpm_cifar_t100": {"denoiser": 35_746_307},
    "ddpm_cifar_t100_fixed_small": {"denoiser": 35_746_307},
    "ddpm_cifar_deepres1": {"denoiser": 24_275_587},
    "ddpm_cifar_shallowres2": {"denoiser": 25_838_595},
    "ddpm_cifar_shallowres1": {"denoiser": 17_714_563},
    "ddpm_cifar_mbconv64": {"denoiser": 12_001_859},
    "ddpm_cifar_mbconv96": {"denoiser": 26_831_715},
    "ddpm_report_cifar": {"denoiser": 4_900_611},
    "ddpm16_cifar": {"denoiser": 25_838_595},
    "mbconv_small": {"denoiser": 902_529},
    "flow_digits": {"denoiser": 701_345},
    "flow_mnist": {"denoiser": 1_112_801},
    "flow_cifar": {"denoiser": 35_746_307},
    "dit_digits": {"denoiser": 722_788},
    "dit_cifar": {"denoiser": 32_475_660},
    "dit_mnist_latent": {"denoiser": 1_270_916},
    "meanflow_digits": {"denoiser": 756_772},
    "meanflow_25gaussians": {"denoiser": 119_170},
    "meanflow_cifar": {"denoiser": 32_717_964},
    "edm_digits": {"denoiser": 701_345},
    "posthoc_ema_digits": {"denoiser": 701_345},
    "dmd_digits": dict.fromkeys(DISTILLED, 701_345),
    "dmd_25gaussians": dict.fromkeys(DISTILLED, 35_714),
    "dmd_cifar": {**dict.fromkeys(DISTILLED, 59_013_379), "discriminator": 5_117_889},
    "edm_mnist": {"denoiser": 1_112_801},
    "edm_cifar": {"denoiser": 59_013_379},
    "consistency_digits": {"denoiser": 701_345},
    "consistency_distill_digits": {"denoiser": 701_345, "teacher": 701_345},
    "consistency_25gaussians": {"denoiser": 35_714},
    "consistency_mnist": {"denoiser": 1_112_801},
    "consistency_cifar": {"denoiser": 59_013_379},
    "importance_cifar": {"denoiser": 35_746_307},
    "importance_extra2_cifar": {"denoiser": 35_746_307},
    "importance_small": {"denoiser": 453_793},
    "importance_extra2_small": {"denoiser": 453_793},
    "iwdiff_cifar": {"denoiser": 35_746_307},
    "iwdiff_uniform_cifar": {"denoiser": 35_746_307},
    "iwdiff_importance_cifar": {"denoiser": 35_746_307},
    "iwdiff_small": {"denoiser": 453_793},
    "iwdiff_uniform_small": {"denoiser": 453_793},
    "iwdiff_minimum_small": {"denoiser": 453_793},
    "iwdiff_importance_small": {"denoiser": 453_793},
    "improved_ddpm_cifar": {"denoiser": 52_546_438},
    "improved_ddpm_small": {"denoiser": 701_634},
    "improved_ddpm_vlb_small": {"denoiser": 701_634},
    "surrogate_cifar": {"denoiser": 35_746_307},
    "autoencoder_mnist": {"autoencoder": 241_749},
    "autoencoder_cifar": {"autoencoder": 13_859_495, "discriminator": 663_361},
    "vae_mnist_small": {"autoencoder": 319_833},
    "ddpm_mnist_latent": {"denoiser": 703_076},
    "ddgan_mnist_latent": {"denoiser": 1_012_868, "discriminator": 129_409},
    "classifier_cifar": {"classifier": 1_214_666},
    "classifier_mnist": {"classifier": 81_626},
    "classifier_mnist16": {"classifier": 81_626},
    "dcgan_cifar": {"generator": 3_576_704, "discriminator": 2_765_568},
    "dcgan_cifar32": {"generator": 1_068_928, "discriminator": 663_296},
    "dcgan_mnist_small": {"generator": 99_008, "discriminator": 34_432},
    "sngan_cifar": {"generator": 4_276_739, "discriminator": 1_053_824},
    "sngan_mnist": {"generator": 4_114_945, "discriminator": 1_051_264},
    "sngan_mnist_small": {"generator": 72_993, "discriminator": 46_656},
    "r3gan_mnist_small": {"generator": 72_993, "discriminator": 46_656},
    "diffusion_gan_mnist_small": {"generator": 72_993, "discriminator": 47_712},
    "gan_25gaussians": {"generator": 33_666, "discriminator": 33_537},
    "r3gan_25gaussians": {"generator": 33_666, "discriminator": 33_537},
    "sagan_cifar": {"generator": 4_342_116, "discriminator": 1_063_473},
    "sagan_mnist_small": {"generator": 76_430, "discriminator": 47_533},
    "progressive_celebahq256": {"generator": 23_044_309, "discriminator": 23_052_353},
    "progressive_mnist_small": {"generator": 134_787, "discriminator": 123_121},
    "tdpm_digits": {"denoiser": 701_345, "generator": 36_929, "discriminator": 46_656},
    "tdpm_mnist_small": {"denoiser": 453_793, "generator": 72_993, "discriminator": 46_656},
    "tdpm_25gaussians": {"denoiser": 35_714, "generator": 33_666, "discriminator": 33_537},
    "ddgan_digits": {"denoiser": 447_025, "discriminator": 129_217},
    "ddgan_mnist_small": {"denoiser": 712_129, "discriminator": 129_985},
    "ddgan_mnist": {"denoiser": 1_447_361, "discriminator": 845_569},
    "ddgan_25gaussians": {"denoiser": 36_226, "discriminator": 35_841},
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
    recipe = resolve(read_layers("autoencoder_mnist"), plugins.load().registry)
    table = recipe.component(("networks", "autoencoder"))
    saved = Saved(network=table, sample_shape=(1, 32, 32), num_classes=10)  # for those on its latents
    network = saved.build("network", recipe.registry, saved.supplied(), "here")
    SavedNetwork(network, saved).save_pretrained(folder / "coder")
    return folder


def path_of(name: str) -> Path:
    return next(recipe.path for recipe in packaged() if recipe.name == name)


def comment(name: str) -> list[str]:
    """The lines of the comment with which a recipe begins."""
    lines = path_of(name).read_text(encoding="utf-8").splitlines()
    return list(takewhile(lambda line: line.startswith("#"), lines))


def tables_in(value: Any) -> Iterator[Table]:
    """Complete tables and those nested in them."""
    if isinstance(value, Table):
        yield value
        value = value.arguments
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from tables_in(inner)


def earlier_runs(name: str, data: Path) -> list[str]:
    """Flags that replace each run whose network a recipe takes by an untrained network of the same recipe."""
    flags = []
    for role, table in read_layers(name).values["networks"].items():
        for key in ("from_run", "init_from"):
            if key in table:
                flags.append(f"networks.{role}.{key}={untrained(Path(table[key]).name, data)}")
    return flags


def untrained(name: str, data: Path) -> Path:
    """The folder of a network that a packaged recipe would train; without weights if it is not small."""
    folder = data / "runs" / name
    if not folder.is_dir():
        recipe, small = load(name, data), name in SMALL
        built = build(recipe, torch.device("cpu")) if small else build(on_meta(recipe), torch.device("meta"))
        role = built.training.objective.samples
        assert role is not None
        saved = Saved(
            network=recipe.component(("networks", role)), schedule=recipe.component(("schedule",)),
            sample_shape=built.supplied["sample_shape"], num_classes=built.supplied["num_classes"],
        )  # fmt: skip
        if small:
            SavedNetwork(built.training.networks[role], saved).save_pretrained(folder)
        else:
            folder.mkdir(parents=True)
            (folder / "network.json").write_text(json.dumps(saved.model_dump(mode="json")))
    return folder


def load(name: str, data: Path, *stated: str) -> Recipe:
    registry = plugins.load().registry.copy()
    stated = (*stated, *earlier_runs(name, data))
    tables = resolve(read_layers(name, stated), registry).tables
    table, key = tables["data"], "data.path"
    if "surrogate" in tables.get("start", {}):
        stated = (*stated, f"start.surrogate={data / 'model'}")
    if "encoder" in tables:
        stated = (*stated, f"encoder.from_run={data / 'coder'}")
    if table["type"] == "stacked_mnist":
        table, key = table["source"], "data.source.path"
    if table["type"] == "datasets":
        stated = (*stated, f"{key}={data / ('mnist' if 'mnist' in table['path'] else 'cifar10')}")
    return resolve(read_layers(name, stated), registry)


class OnMeta(Recipe):
    """A recipe whose networks are made without memory: their shapes are all that is asked for."""

    def create(self, path: KeyPath, supplied: Mapping[str, object]) -> Any:
        with torch.device("meta") if path[0] == "networks" else nullcontext():
            return super().create(path, supplied)


def on_meta(recipe: Recipe) -> Recipe:
    """The recipe with networks that are on the meta device, and take no weights of earlier runs."""
    for role, table in recipe.tables["networks"].items():
        for option in ("from_run", "init_from"):
            if table[option] is not None:
                recipe = recipe.with_value(("networks", role, option), None)
    return OnMeta(recipe.complete, recipe.layers, recipe.sections, recipe.registry)


def test_every_packaged_recipe_says_its_sizes_here() -> None:
    assert set(PARAMETERS) == set(NAMES)
    assert set(SMALL) < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_begins_with_purpose_model_command_cost_expectation_and_plugins(name: str) -> None:
    words = [line.split()[1] for line in comment(name) if line[2:3].strip()]
    headed = [word for word in words if word in ("Model:", "Run:", "Cost:", "Expect:", "Plugins:")]
    assert words[0] not in headed
    assert headed == ["Model:", "Run:", "Cost:", "Expect:", "Plugins:"]
    (recipe,) = [recipe for recipe in packaged() if recipe.name == name]
    assert recipe.purpose.endswith((".", "?")) and not re.search("thesis|report |twin", recipe.purpose)
    number, unit = recipe.model[2].split()
    stated = float(number) * {"k": 1e3, "M": 1e6}[unit]
    sampled = next(PARAMETERS[name][role] for role in SAMPLED if role in PARAMETERS[name])
    assert stated == pytest.approx(sampled, rel=0.04)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_needs_the_plugins_that_it_says_and_no_others(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = [line for line in comment(name) if line.startswith("# Plugins:")]
    said = line.removeprefix("# Plugins:").strip()
    everything, path = plugins.load().registry, path_of(name)
    stated = earlier_runs(name, data)
    recipe = resolve(read_layers(path, stated), everything)
    owners = {component.factory: component.owner.name for component in everything.added()}
    named = {owners[table.factory] for table in tables_in(dict(recipe.complete)) if table.factory in owners}
    assert said == (", ".join(sorted(named - {"toolkit"})) or "none")

    monkeypatch.setenv("TOOLKIT_PLUGINS", said.replace(" ", ""))
    alone = plugins.load()
    assert [report.owner.name for report in alone.reports[1:]] == sorted(named - {"toolkit"})
    assert resolve(read_layers(path, stated), alone.registry).tables == recipe.tables


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_resolves_to_itself(name: str, data: Path, tmp_path: Path) -> None:
    recipe = load(name, data)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.describe(recipe, {}, {})
    assert resolve(read_layers(folder.recipe), recipe.registry).tables == recipe.tables


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_builds_with_the_sizes_that_are_stated_here(name: str, data: Path) -> None:
    built = build(on_meta(load(name, data)), torch.device("meta"))
    (recipe,) = [recipe for recipe in packaged() if recipe.name == name]
    shape = recipe.model[1].partition(", ")[2].partition(" ")[0]
    assert shape == "x".join(map(str, built.source.image_shape))
    networks = built.training.networks
    assert {role: sum(p.numel() for p in network.parameters()) for role, network in networks.items()} == (
        PARAMETERS[name]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_recipe_passes_its_check(name: str, data: Path) -> None:
    said: list[str] = []
    check_recipe(load(name, data), said.append)
    assert said[-1] in (
        "saved and loaded the pipeline: it samples the same",
        "saved and loaded network classifier: it is the same",
        "saved and loaded network autoencoder: it is the same",
    )


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real data beside the checkout")
@pytest.mark.parametrize("name", ["ddpm_mnist", "ddgan_mnist"])
def test_a_small_recipe_passes_its_check_on_real_digits(name: str) -> None:
    said: list[str] = []
    check_recipe(load(name, REAL_DATA), said.append)
    assert "saved and loaded" in said[-1]
