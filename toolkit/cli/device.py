"""The processes that a launcher started, and the device of this one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toolkit.cli.options import choose_device
from toolkit.errors import ToolkitError


@contextmanager
def several_processes(name: str | None) -> Iterator[tuple[Any, Any]]:
    """The processes that a launcher started, or this one alone, and the device of this one.

    Raises:
        ToolkitError: if torch has no such device here, or one is named for several processes.
    """
    from toolkit.devices.processes import Processes

    with Processes("cpu" if name == "cpu" else "auto") as processes:
        if processes.count > 1 and name not in (None, "cpu"):
            raise ToolkitError(f"--device {name}: the launcher gives each process a device of its own")
        yield processes, processes.device if processes.count > 1 else choose_device(name)
