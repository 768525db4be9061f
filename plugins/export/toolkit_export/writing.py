"""Files of torch.export and of ONNX: written, read back and compared with the network."""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from toolkit import RunError
from toolkit_export.network import Exportable, axes

Call = Callable[[Mapping[str, Tensor]], Tensor]
TOLERANCE = 1e-4  # of the largest output: float32 through hundreds of layers, added up in another order


def traced(network: Exportable, any_size: bool) -> ExportedProgram:
    """The network as a graph whose first dimension is open, and with `any_size` height and width too.

    Raises:
        RunError: if the network cannot be exported so.
    """
    inputs = dict(network.inputs(2, 1))
    dynamic = {
        name: {i: Dim.DYNAMIC for i, size in enumerate(axes(tensor, any_size)) if isinstance(size, str)}
        for name, tensor in inputs.items()
    }
    try:
        with quiet():
            return torch.export.export(network.module, (), inputs, dynamic_shapes=dynamic)
    except Exception as error:  # torch has a dozen kinds for what it cannot trace
        reason = " ".join(str(error).split())[:300]
        hint = " without --any-size, maybe" if any_size else ""
        raise RunError(f"{network.name} cannot be exported{hint}: torch says {reason}") from None


def most_at_once(program: ExportedProgram) -> int | None:
    """The number of examples from which on the network would take another way; None if there is none.

    Only torch's file refuses more: diffusers' blocks copy larger batches first, which changes no number.
    """
    bounds = [int(r.upper) for r in program.range_constraints.values() if r.upper.is_Integer]
    return min(bounds, default=None)


def write_torch(program: ExportedProgram, network: Exportable, path: Path) -> None:
    with path.open("wb") as file:  # given a name, torch wants another one
        torch.export.save(program, file)


def read_torch(path: Path) -> Call:
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda inputs: module(**inputs)


def write_onnx(program: ExportedProgram, network: Exportable, path: Path) -> None:
    """Write the graph as ONNX, with its weights in the same file.

    Raises:
        RunError: if the packages are missing, or an operator has no form in ONNX.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _package(package)
    try:
        with quiet():
            torch.onnx.export(
                program, f=path, output_names=[network.output], external_data=False, verbose=False
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"{network.name} cannot be written as ONNX: torch says {reason}") from None


def read_onnx(path: Path) -> Call:
    session = _package("onnxruntime").InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}  # what the network does not use is not there

    def call(inputs: Mapping[str, Tensor]) -> Tensor:
        (output,) = session.run(None, {k: v.numpy() for k, v in inputs.items() if k in names})
        return torch.from_numpy(output)

    return call


FORMATS: Mapping[str, tuple[Callable[[ExportedProgram, Exportable, Path], None], Callable[[Path], Call]]] = {
    "torch": (write_torch, read_torch),
    "onnx": (write_onnx, read_onnx),
}


def compare(network: Exportable, exported: Call, any_size: bool) -> tuple[float, float]:
    """The largest difference between outputs of both, and the one allowed, for one example and for five.

    Raises:
        RunError: if it is larger.
    """
    worst, allowed = 0.0, 0.0
    for n, grow in ((1, 1), (5, 2 if any_size else 1)):
        inputs = network.inputs(n, grow)
        with torch.inference_mode():
            expected = network.module(**inputs)
            found = exported(inputs)
        worst = max(worst, float((found - expected).abs().max()))
        allowed = max(allowed, TOLERANCE * float(expected.abs().max()))
    if not worst <= allowed:
        raise RunError(
            f"the exported {network.name} differs from the original by {worst:.1e}, and {allowed:.1e} is "
            "allowed: nothing is kept"
        )
    return worst, allowed


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say about themselves, and about packages that it could use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RunError(f"{error.name} is not installed: pip install 'diffusion-toolkit[onnx]'") from None
