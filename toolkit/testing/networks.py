"""Checks of networks: of a denoiser's predictions, and of other networks' outputs for their case's inputs."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.prediction import Prediction
from toolkit.errors import CheckpointError
from toolkit.files import read_json
from toolkit.pipeline.folder import Saved, SavedNetwork, read_weights, save_network
from toolkit.testing.case import Case
from toolkit.testing.randomness import row_generators, without_draws
from toolkit.testing.requirement import close, require

ROWS = 4


def _inputs(case: Case, network: nn.Module) -> tuple[Tensor | None, ...] | None:
    """The inputs of its forward, (ROWS, ...) each; None if the case has none."""
    torch.manual_seed(5)
    if not isinstance(network, Denoiser):
        return None if case.inputs is None else case.inputs(ROWS)
    path, label = case.path(), None
    if network.conditional:
        require(case.num_classes, "is conditional: its case must state num_classes")
        label = torch.arange(ROWS) % (case.num_classes or 1)
    x_t, first = torch.randn(ROWS, *case.sample_shape), path.grid(None, None)[-2]
    t = torch.linspace(first, path.noisiest, ROWS)
    t = t.long() if path.discrete else t
    return x_t, t, torch.full_like(t, path.clean), label, network.latent(ROWS, row_generators(ROWS))


@torch.no_grad()
def _ask(network: nn.Module, inputs: tuple[Tensor | None, ...], rows: slice = slice(None)) -> Tensor:
    """Its output for these rows: of a denoiser x_0 + noise, of another network all it returns."""
    given = [tensor if tensor is None else tensor[rows] for tensor in inputs]
    if not isinstance(network, Denoiser):
        out, count = network.eval()(*given), len(range(ROWS)[rows])
        parts = out if isinstance(out, (tuple, list)) else (out,)
        for part in parts:
            kind = type(part).__name__
            inside = f"a {type(out).__name__} with a {kind} inside" if parts is out else f"a {kind}"
            require(isinstance(part, Tensor), f"forward gives {inside}: give a tensor, or a tuple of tensors")
            shape = tuple(part.shape)
            require(part.ndim and len(part) == count, f"forward gives a tensor of {shape} for {count} rows")
        return torch.cat([part.reshape(count, -1) for part in parts], 1) if parts is out else out
    out = _predict(network, given)
    # At each end of the chain one of the two is divided by a number near 0; the sum shows errors of both.
    return out.x0 + out.noise


def _predict(network: Denoiser, given: Sequence[Tensor | None]) -> Prediction:
    x_t, t, s, label, latent = given
    prediction: Prediction = network.eval()(x_t, t, s=s, label=label, latent=latent)
    return prediction


def check_output(case: Case) -> None:
    """Finite float32, of the right number of rows; a prediction has the shape of x_t."""
    network = case.build()
    inputs = _inputs(case, network)
    if inputs is None:
        return
    first = inputs[0]
    assert first is not None
    if isinstance(network, Denoiser):
        with torch.no_grad():
            prediction = _predict(network, inputs)
        require(
            isinstance(prediction, Prediction), f"forward gives a {type(prediction).__name__}, no Prediction"
        )
        named = {"x0": prediction.x0, "noise": prediction.noise}
        if prediction.variance_fraction is not None:
            named["variance_fraction"] = prediction.variance_fraction
        for name, tensor in named.items():
            shapes = f"{tuple(tensor.shape)} for x_t of {tuple(first.shape)}"
            require(tensor.shape == first.shape, f"the prediction's {name} has shape {shapes}")
    else:
        named = {"output": _ask(network, inputs)}
    for name, tensor in named.items():
        require(tensor.dtype == torch.float32, f"the {name} is {tensor.dtype}: end with .float()")
        require(tensor.isfinite().all(), f"the {name} of a new network is not finite")


def check_rows_do_not_leak(case: Case) -> None:
    """In eval mode, the output for a row depends on that row alone."""
    network = case.build()
    inputs = _inputs(case, network)
    if inputs is None:
        return
    together = _ask(network, inputs)
    alone = torch.cat([_ask(network, inputs, slice(i, i + 1)) for i in range(ROWS)])
    require(
        close(alone, together, 1e-3),
        "a row alone gives another output than in its batch, in eval(): take no statistic over rows, or keep "
        "a running one in a buffer as BatchNorm does",
    )


def check_eval_draws_nothing(case: Case) -> None:
    """In eval mode it draws nothing but its latent, row by row from the generators."""
    network = case.build()
    inputs = _inputs(case, network)
    if inputs is None:
        return
    help = "draw what sampling needs in latent(n, generators), and leave dropout out in eval()"
    with without_draws("the network in eval()", help):
        _ask(network, inputs)
        latent = network.latent(ROWS, row_generators(ROWS)) if isinstance(network, Denoiser) else None
    if latent is not None:
        one = network.latent(1, row_generators(1, first=2))
        require(
            len(latent) == ROWS and torch.equal(one[0], latent[2]),
            "row i of the latent must be drawn from generators[i]: toolkit.randn(shape, generators, device)",
        )


def check_folder_round_trip(case: Case) -> None:
    """Its table and its state, saved and loaded, make the same network."""
    network, registry = case.build(seed=0), case.known
    table = case.table
    kind = next(kind for kind in registry.kinds() if issubclass(type(network), kind))
    saved = Saved(network=table, sample_shape=case.sample_shape, num_classes=case.num_classes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "network"
        save_network(SavedNetwork(network, saved), folder, registry)
        declared = read_json(folder / "network.json")["network"]
        again: nn.Module = registry.create(kind, declared, supplied=saved.supplied(case.path()), where=str)
        try:
            read_weights(folder, again, registry, CheckpointError)
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{folder}: ")
            require(False, f"its saved state does not load: {reason}. Register all state in the constructor")
    state = network.state_dict()
    require(
        all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items()),
        "a saved and loaded network has another state: do not change it when it is loaded",
    )
    inputs = _inputs(case, network)
    if inputs is not None:
        require(
            close(_ask(again, inputs), _ask(network, inputs), 1e-5),
            "a saved and loaded network gives another output: what it draws or learns must be a parameter or "
            "a buffer (register_buffer), and what it is given an option",
        )


def check_conditional(case: Case) -> None:
    """Labels change a denoiser's predictions if and only if it is `conditional`."""
    classes = case.num_classes or 2  # a denoiser may know labels that its case says nothing of
    case = replace(case, num_classes=classes)
    network = case.build()
    if not isinstance(network, Denoiser):
        return
    _stir(network)
    labels = [torch.full((ROWS,), i) for i in range(min(2, classes))]
    labels += [torch.full((ROWS,), classes)] if network.null_class else []
    inputs = _inputs(case, network)
    assert inputs is not None
    x_t, t, s, _, latent = inputs
    answers = [_ask(network, (x_t, t, s, label, latent)) for label in labels]
    differ = any(not torch.equal(answers[0], other) for other in answers[1:])
    require(
        not differ or network.conditional,
        "labels change the prediction, but `conditional` is False: set it to True, or labels are refused",
    )
    require(
        differ or not network.conditional or len(labels) < 2,
        "`conditional` is True, but labels change nothing: use `label`",
    )


def check_flow_map(case: Case) -> None:
    """The time to which a step leads changes a denoiser's predictions if and only if it is a `flow_map`."""
    network = case.build()
    if not isinstance(network, Denoiser):
        return
    _stir(network)
    inputs = _inputs(case, network)
    assert inputs is not None
    x_t, t, s, label, latent = inputs
    differ = not torch.equal(*(_ask(network, (x_t, t, to, label, latent)) for to in (s, t)))
    require(
        not differ or network.flow_map,
        "s changes the prediction, but `flow_map` is False: set it to True, or methods that train the way to "
        "s refuse it",
    )
    require(differ or not network.flow_map, "`flow_map` is True, but s changes nothing: use `s`")


@torch.no_grad()
def _stir(network: nn.Module) -> None:
    """Change all weights a little: those that begin at zero would hide what an input does."""
    for parameter in network.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def check_latents(case: Case) -> None:
    """Images become latents of `latent_shape`, and images again, row by row; nothing is drawn."""
    encoder = case.build().eval()
    images = torch.rand(ROWS, *case.sample_shape) * 2 - 1
    shape = (ROWS, *encoder.latent_shape(case.sample_shape))
    with torch.no_grad(), without_draws("an encoder", "take the mean of what it encodes to"):
        latents = encoder.encode(images)
        alone, back = encoder.encode(images[:1]), encoder.decode(latents)
    for name, result, wanted in (("encode", latents, shape), ("decode", back, tuple(images.shape))):
        require(tuple(result.shape) == wanted, f"{name} gives {tuple(result.shape)} and not {wanted}")
        require(result.dtype == torch.float32, f"{name} gives {result.dtype}, and not float32")
        require(bool(result.isfinite().all()), f"{name} gives values that are not finite")
    require(close(alone, latents[:1], 1e-4), "an image's latent depends on the images beside it")


ENCODER_CHECKS = (check_latents,)
CHECKS = (
    check_output,
    check_rows_do_not_leak,
    check_eval_draws_nothing,
    check_folder_round_trip,
    check_conditional,
    check_flow_map,
)
