"""The device that a flag asks for."""

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
