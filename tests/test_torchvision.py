"""A torchvision for GPUs beside a torch for CPUs must not take diffusers down."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

# What such a torchvision does: it gives fake implementations to operators that its library failed to define.
TORCHVISION = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""
CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from toolkit.registry import load as plugins
plugins.load()
import torchvision
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is not None, reason="a torch for GPUs, where nothing is missing")
@pytest.mark.parametrize(("version", "imported"), [("0.28.0+cu130", True), ("0.28.0+cpu", False)])
def test_only_a_build_for_gpus_is_given_the_operators_that_it_misses(
    tmp_path: Path, version: str, imported: bool
) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(TORCHVISION)
    (package / "version.py").write_text(f"__version__ = {version!r}")
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode == 0) is imported, done.stderr
    assert imported or "operator torchvision::nms does not exist" in done.stderr
