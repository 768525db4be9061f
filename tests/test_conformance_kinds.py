"""A plugin with a kind of its own brings the checks for it; components of other plugins get them too."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit.cli import main

KIND = '''
from abc import ABC, abstractmethod

from torch import Tensor

import toolkit


class Augmentation(ABC):
    """Changes pictures."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor: ...


class Mirror(Augmentation):
    def __call__(self, images: Tensor) -> Tensor:
        return images.flip(-1)


@toolkit.hookimpl
def toolkit_components(registry: toolkit.Registry) -> None:
    registry.add(Augmentation, "mirror", Mirror)
'''
CHECKS = """
import torch

from toolkit import testing
from toolkit_augment import Augmentation


def check_shape(case: testing.Case) -> None:
    images = torch.zeros(2, *case.sample_shape)
    testing.require(case.build()(images).shape == images.shape, "images keep their shape")


CHECKS = {Augmentation: (check_shape,)}


def cases() -> list[testing.Case]:
    return []
"""
STRANGER = """
import toolkit
from torch import Tensor
from toolkit_augment import Augmentation


class Crop(Augmentation):
    def __call__(self, images: Tensor) -> Tensor:
        return images[..., 1:]


@toolkit.hookimpl
def toolkit_components(registry: toolkit.Registry) -> None:
    registry.add(Augmentation, "crop", Crop)
"""


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    site = tmp_path / "site"
    modules = {"augment": {"__init__.py": KIND, "conformance.py": CHECKS}, "crop": {"__init__.py": STRANGER}}
    for name, files in modules.items():
        package, info = site / f"toolkit_{name}", site / f"toolkit_{name}-0.1.dist-info"
        package.mkdir(parents=True)
        for file, text in files.items():
            (package / file).write_text(text)
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toolkit-{name}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[toolkit]\n{name} = toolkit_{name}\n")
    monkeypatch.syspath_prepend(site)
    yield
    for name in [name for name in sys.modules if name.startswith(("toolkit_augment", "toolkit_crop"))]:
        del sys.modules[name]


def test_a_component_is_checked_by_the_plugin_whose_kind_it_is() -> None:
    kept = CliRunner().invoke(main, ["plugin", "test", "augment", "-v"])
    assert "Augmentation mirror, check_shape" in kept.output
    assert kept.exit_code == 0, kept.output
    broken = CliRunner().invoke(main, ["plugin", "test", "crop", "-v"])
    assert broken.exit_code == 1
    assert "images keep their shape" in broken.output
