"""torch-fidelity, an extra, needs torchvision, of which some platforms have only builds for GPUs.

Such a build dies when it is imported beside a CPU build of torch ("operator torchvision::nms does not
exist"), and diffusers, which imports it where it is installed, with it. Two schemas are all that it lacks.
"""

import importlib.util
from pathlib import Path

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # a schema lasts as long as the library that defines it


def define_missing_operators() -> bool:
    """Define what an installed torchvision would miss; whether that was necessary. Imports nothing."""
    spec = importlib.util.find_spec("torchvision")
    if _libraries or spec is None or spec.origin is None or torch.version.cuda is not None:
        return False
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    if "+cu" not in version or hasattr(torch.ops.torchvision, "nms"):
        return False
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + SCHEMA)
    _libraries.append(library)
    return True
