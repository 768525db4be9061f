"""The device that a flag asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toolkit.errors import ToolkitError


def chosen_device(stated: str | None) -> Any:
    """The stated device, or an accelerator if there is one, else the CPU.

    Raises:
        ToolkitError: if torch has no such device here.
    """
    import torch

    try:
        device = torch.device(stated or torch.accelerator.current_accelerator() or "cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that it has no such device
        reason = str(error).splitlines()[0]
        raise ToolkitError(f"--device {stated}: {reason}") from None
    return device


@contextmanager
def several_processes(stated: str | None) -> Iterator[tuple[Any, Any]]:
    """The processes that a launcher started, or this one alone, and the device of this one.

    Raises:
        ToolkitError: if torch has no such device here, or one is stated for several processes.
    """
    from toolkit.options import ComputeOptions
    from toolkit.processes import Processes

    processes = Processes(ComputeOptions(device="cpu" if stated == "cpu" else "auto"))
    cleanly = False
    try:
        if processes.count > 1 and stated not in (None, "cpu"):
            raise ToolkitError(f"--device {stated}: the launcher gives each process a device of its own")
        yield processes, processes.device if processes.count > 1 else chosen_device(stated)
        cleanly = True
    finally:
        processes.close(cleanly=cleanly)
