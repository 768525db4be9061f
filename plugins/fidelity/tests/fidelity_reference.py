"""The numbers of fidelity_vectors.json, and what they were made from.

    pip install torch-fidelity==0.4.0 torchvision && python plugins/fidelity/tests/fidelity_reference.py

writes them anew, by torch-fidelity.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from feature_sets import Projection
from torch import Tensor, nn

VECTORS = Path(__file__).with_name("fidelity_vectors.json")


def vectors() -> dict[str, Any]:
    return json.loads(VECTORS.read_text())


def noise(n: int, seed: int, scale: float = 1.0) -> Tensor:
    uniform = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (uniform * 255 * scale).to(torch.uint8)


def pictures() -> Tensor:
    """Two pictures (2, 3, 20, 26), one of them dark."""
    both = torch.rand(2, 3, 20, 26, generator=torch.Generator().manual_seed(3))
    return (both * torch.tensor([255.0, 60.0]).view(2, 1, 1, 1)).to(torch.uint8)


def filled(network: nn.Module) -> dict[str, Tensor]:
    """A state dict of random weights, by the network's names, that keeps activations in range."""
    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in sorted(network.state_dict().items()):
        values = torch.randn(tensor.shape, generator=draw)
        if name.endswith("num_batches_tracked"):
            values = torch.zeros_like(tensor)
        elif tensor.ndim > 1:
            values *= (2 / tensor[0].numel()) ** 0.5
        else:
            centre = 1.0 if name.endswith(("running_var", "bn.weight")) else 0.0
            values = centre + 0.1 * values.abs()
        state[name] = values
    return state


def record() -> None:
    import torch_fidelity
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    from toolkit_fidelity.inception import InceptionV3

    device = torch.device("cpu")
    generated, real = (Projection().extract(x, device) for x in (noise(303, 0, 0.8), noise(400, 1)))
    sets = (generated.features, real.features)
    statistics = [fid_features_to_statistics(features.double()) for features in sets]
    scores = {
        **fid_statistics_to_metric(*statistics, verbose=False),
        **kid_features_to_metric(*sets, kid_subset_size=100, verbose=False),
        **isc_features_to_metric(generated.logits),
        **prc_features_to_metric(
            *sets, prc_neighborhood=3, prc_batch_size=1000, save_cpu_ram=True, verbose=False
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        torch.save(filled(InceptionV3()), path)
        inception = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    with torch.inference_mode():
        features, logits = inception(pictures())
    written = {
        "torch_fidelity": torch_fidelity.__version__,
        "scores": scores,
        "inception_features": features[:, :200:20].tolist(),
        "inception_logits": logits[:, :200:20].tolist(),
    }
    VECTORS.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    record()
