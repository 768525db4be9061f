"""diffusers' UNet2DModel without the networks that diffusers imports along with it."""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

MODULE = "diffusers.models.unets.unet_2d"
PACKAGES = ("diffusers.models.unets", "diffusers.models.transformers")


def unet_class() -> Any:
    """The class UNet2DModel, the very one that `diffusers.UNet2DModel` is.

    The packages on the way import every UNet, every transformer and scipy: a second at the start of a
    command. While the class is imported, empty packages stand in for them; afterwards they are gone, and
    whoever imports the real ones gets those, with the modules that are loaded already.
    """
    if MODULE not in sys.modules:
        import diffusers.models

        assert diffusers.models  # the parent has to be there before its packages are looked for
        standing_in = [name for name in PACKAGES if name not in sys.modules]
        for name in standing_in:
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.submodule_search_locations is not None
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = list(spec.submodule_search_locations)
        try:
            importlib.import_module(MODULE)
        finally:
            for name in standing_in:
                del sys.modules[name]
    return sys.modules[MODULE].UNet2DModel
