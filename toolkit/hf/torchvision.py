"""A workaround for GPU builds of torchvision beside a CPU build of torch.

torch-fidelity, an optional extra, needs torchvision, and some platforms have only its GPU builds. Importing
one beside a CPU build of torch fails ("operator torchvision::nms does not exist"), and so does diffusers,
which imports it if it is installed. All it lacks are two operator schemas.
"""

import importlib.util
from pathlib import Path

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # a schema lasts as long as the library that defines it


def define_missing_operators() -> bool:
    """Define the operators that an installed torchvision lacks; returns whether any were. Imports nothing."""
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
