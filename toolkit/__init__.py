"""A plugin-based toolkit for diffusion models and their GAN hybrids.

The public names are those of `toolkit.api`. They are imported when one is first asked for, so the command
line answers before torch is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.api import *  # noqa: F403

__version__ = "0.1.0"


def __dir__() -> list[str]:
    return [*importlib.import_module("toolkit.api").__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if not name.startswith("__") and name in (api := importlib.import_module("toolkit.api")).__all__:
        return getattr(api, name)
    if name == "__all__":
        return [*importlib.import_module("toolkit.api").__all__, "__version__"]
    raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
