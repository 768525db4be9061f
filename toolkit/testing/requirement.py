"""How a check fails."""

from torch import Tensor


class Nonconformance(AssertionError):
    """A component breaks a promise of its interface; the message says which, and what would help."""


def require(holds: object, message: str) -> None:
    """Raise a Nonconformance with that message unless the condition holds."""
    if not holds:
        raise Nonconformance(message)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors agree in shape, and in values to `tolerance` times the largest |b|."""
    if a.shape != b.shape:
        return False
    scale = max(float(b.abs().max()), 1e-6) if b.numel() else 1.0
    return bool(((a - b).abs() <= tolerance * scale).all())
