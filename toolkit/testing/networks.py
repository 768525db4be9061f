"""What every network keeps; denoisers are asked for predictions, others for what their case feeds them."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.denoiser import Denoiser, Prediction
from toolkit.description import Description
from toolkit.errors import CheckpointError
from toolkit.files import read_json
from toolkit.network_folder import SavedNetwork, save_network
from toolkit.pipeline_folder import read_weights
from toolkit.testing.case import Case
from toolkit.testing.randomness import row_generators, without_draws
from toolkit.testing.requirement import close, require

ROWS = 4


def _inputs(case: Case, network: nn.Module) -> tuple[Tensor | None, ...] | None:
    """What its forward takes, (ROWS, ...) each; None if the case does not say."""
    torch.manual_seed(5)
    if not isinstance(network, Denoiser):
        return None if case.inputs is None else case.inputs(ROWS)
    total = case.chain().num_train_timesteps
    label = None
    if network.conditional:
        require(case.num_classes, "is conditional: its case must state num_classes")
        label = torch.arange(ROWS) % (case.num_classes or 1)
    x_t, t = torch.randn(ROWS, *case.sample_shape), torch.linspace(0, total - 1, ROWS).long()
    return x_t, t, label, network.latent(ROWS, row_generators(ROWS))


@torch.no_grad()
def _ask(network: nn.Module, inputs: tuple[Tensor | None, ...], rows: slice = slice(None)) -> Tensor:
    """What it says of these rows: what a denoiser computes, x_0 or noise, or the output of another one."""
    out = network.eval()(*(tensor if tensor is None else tensor[rows] for tensor in inputs))
    if not isinstance(out, Prediction):
        found: Tensor = out
        return found
    # Of x_0 and noise one is divided by a number near 0 at each end of the chain: their sum shows both.
    return out.x0 + out.noise


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
            prediction = network.eval()(*inputs)
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
        require(len(named["output"]) == ROWS, f"gives {len(named['output'])} rows for {ROWS}")
    for name, tensor in named.items():
        require(tensor.dtype == torch.float32, f"the {name} is {tensor.dtype}: end with .float()")
        require(tensor.isfinite().all(), f"the {name} of a new network is not finite")


def check_rows_do_not_leak(case: Case) -> None:
    """In eval mode, what it says of a row depends on that row alone."""
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
    """In eval mode it draws nothing but its latent, and that row by row from the generators."""
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
    about = Description({"network": table}, case.sample_shape, case.num_classes, {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "network"
        save_network(SavedNetwork(network, about), folder, registry)
        stated = read_json(folder / "network.json")["network"]
        again: nn.Module = registry.create(kind, stated, supplied=about.supplied(case.chain()), where=str)
        try:
            read_weights(folder, again, CheckpointError)
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
            "a buffer (register_buffer), what it is told an option",
        )


CHECKS = (check_output, check_rows_do_not_leak, check_eval_draws_nothing, check_folder_round_trip)
