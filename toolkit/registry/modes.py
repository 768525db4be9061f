"""Somebody else's code between two training steps: what it changes for all of torch is changed back."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


@contextmanager
def unchanged_modes() -> Iterator[None]:
    """Restore, after the block, torch's modes and the working directory, to which paths are relative."""
    before = []
    for get, put in _modes():
        with suppress(OSError):  # a working directory that is gone
            before.append((get, put, get()))
    try:
        # Its end restores gradient and inference mode, whatever the block has entered and not left.
        with torch.inference_mode(torch.is_inference_mode_enabled()):
            yield
    finally:
        for get, put, value in before:
            with suppress(OSError):
                if get() != value:
                    put(value)


def _modes() -> list[tuple[Callable[[], Any], Callable[[Any], object]]]:
    """How each mode is read, and set."""

    def deterministic() -> tuple[bool, bool]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    def autocast(kind: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
        def put(value: tuple[bool, torch.dtype]) -> None:
            torch.set_autocast_enabled(kind, value[0])
            torch.set_autocast_dtype(kind, value[1])

        return lambda: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)), put

    def attribute(holder: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
        return lambda: getattr(holder, name), lambda value: setattr(holder, name, value)

    return [
        (os.getcwd, os.chdir),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, lambda at: torch.set_default_device(None if at.type == "cpu" else at)),
        (deterministic, lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1])),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
        autocast("cpu"),
        autocast("cuda"),
        *(attribute(torch.backends.cudnn, name) for name in ("benchmark", "deterministic", "allow_tf32")),
    ]
