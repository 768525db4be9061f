"""Distributions with a plugin, as pip would leave them on the path, for a test."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

INTERFACE = """
    from abc import ABC
    class Trick(ABC): ...
"""
GOOD = """
    import toolkit
    from trick_interface import Trick
    class {name}(Trick): ...
    @toolkit.hookimpl
    def toolkit_components(registry):
        registry.add(Trick, "{trick}", {name})
"""


def installer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution with one plugin, whose module has the given source."""
    monkeypatch.syspath_prepend(folder)
    (folder / "trick_interface.py").write_text(textwrap.dedent(INTERFACE))

    def install(
        distribution: str,
        source: str,
        *,
        plugin: str = "",
        version: str = "1.0",
        requires: tuple[str, ...] = (),
    ) -> None:
        module = f"module_of_{distribution}_{folder.name}"
        monkeypatch.delitem(sys.modules, "trick_interface", raising=False)  # another test's
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
        info = folder / f"{distribution}-{version}.dist-info"
        info.mkdir()
        required = "".join(f"Requires-Dist: {line}\n" for line in requires)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{required}"
        )
        (info / "entry_points.txt").write_text(f"[toolkit]\n{plugin or distribution} = {module}\n")

    return install
