import json
import math
from contextlib import nullcontext

import pytest
import torch
from classifier_runs import toolkit, train, trained
from safetensors.torch import load_file
from torch.nn import functional as F

from toolkit import Batch, Objective, Step
from toolkit.registry import load as plugins
from toolkit.sources.digits import Digits
from toolkit_classifier.network import ConvolutionalClassifier
from toolkit_classifier.objective import Classification, shifted

ROWS, COLUMNS = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_digits_are_learnt_in_seconds(classifier_run):
    measured = records(classifier_run)[-1]
    assert measured["held_out/classifier/accuracy"] > 0.9  # 0.953 to 0.981
    assert measured["held_out/classifier/loss"] < 0.3  # 0.11 to 0.17
    assert records(classifier_run)[0]["classifier/accuracy"] < 0.7


def test_a_run_leaves_its_averaged_network_and_neither_pipeline_nor_samples(classifier_run):
    (kept,) = (classifier_run / "networks").iterdir()
    (average,) = (classifier_run / "checkpoints").glob("*/ema/classifier.safetensors")
    assert kept.name == "classifier"
    assert torch.equal(*(head_of(path) for path in (kept / "weights.safetensors", average)))
    assert not (classifier_run / "pipeline").exists()
    assert not (classifier_run / "samples").exists()


def head_of(path):
    return load_file(path)["head.weight"]


@pytest.mark.parametrize("inner", ["", "networks/classifier"])
def test_a_classifier_is_not_sampled(classifier_run, inner):
    result = toolkit("sample", str(classifier_run / inner))
    assert result.exit_code == 2
    assert "its network samples nothing: toolkit.load_network reads it" in result.output


def test_a_run_starts_from_the_weights_of_another(classifier_run, tmp_path):
    start = f"networks.classifier.init_from={classifier_run}"
    again = trained(tmp_path / "again", start, "run.steps=1", "optimizers.classifier.lr=0", "run.log_every=1")
    assert records(again)[0]["classifier/accuracy"] > 0.8  # 0.94 to 0.98


@pytest.mark.parametrize("kind", ["objective", "network"])
def test_data_without_labels_is_refused_in_one_line(kind, tmp_path):
    made = {"objective": Classification, "network": lambda num: ConvolutionalClassifier((1, 8, 8), num)}
    with pytest.raises(ValueError, match="label"):
        made[kind](None)
    for name in "ab":
        picture(tmp_path / "pictures" / f"{name}.png")
    source = ("data.type=folder", f"data.path={tmp_path / 'pictures'}")
    result = train(tmp_path / "run", *source)
    assert result.exit_code == 2
    assert "[objective] learns from labels, and this data has none" in result.output


def picture(path):
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8)).save(path)


@pytest.mark.parametrize(
    ("shape", "told"),
    [((1, 7, 8), "at least 8x8"), ((2, 8, 8), "1 or 3 channels"), ((2,), "not at examples of shape")],
)
def test_a_network_says_what_it_cannot_look_at(shape, told):
    with pytest.raises(ValueError, match=told):
        ConvolutionalClassifier(shape, 10)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14), (1, 28, 28), (3, 64, 64)])
def test_logits_are_linear_in_features_of_the_stated_width_at_any_size(shape):
    network = ConvolutionalClassifier(shape, 5, channels=8, width=48).eval()
    images = torch.randn(2, *shape)
    features = network.features(images)
    assert features.shape == (2, 48) and network(images).shape == (2, 5)
    a, b = features
    middle = network.classify((a + b)[None] / 2)[0]
    assert torch.allclose(middle, network(images).mean(0), atol=1e-6)


def test_an_image_has_the_same_features_in_any_company():
    network = ConvolutionalClassifier((1, 8, 8), 10).eval()
    images = torch.randn(6, 1, 8, 8)
    assert torch.allclose(network.features(images)[:1], network.features(images[:1]), atol=1e-6)


class Certain(torch.nn.Module):
    """Gives class 0 the logit `log 3`, and the others 0."""

    def forward(self, images):
        logits = torch.zeros(len(images), 4)
        logits[:, 0] = math.log(3)
        return logits


def losses(objective, labels):
    networks = {"classifier": Certain()}
    step = Step(0, 0, torch.device("cpu"), networks, networks, nullcontext)
    batch = Batch(torch.zeros(len(labels), 1, 8, 8), torch.tensor(labels), 0)
    return [turn.loss(batch, step) for turn in (*objective.turns(), *objective.measures())]


def test_the_loss_is_the_cross_entropy_and_only_training_smooths_labels():
    objective = Classification(4, label_smoothing=0.4)  # p = (1/2, 1/6, 1/6, 1/6)
    training, measure = losses(objective, [0, 1])
    assert measure.total == pytest.approx((math.log(2) + math.log(6)) / 2)
    uniform = (math.log(2) + 3 * math.log(6)) / 4
    assert training.total == pytest.approx(0.6 * (math.log(2) + math.log(6)) / 2 + 0.4 * uniform)
    assert training.logs["accuracy"] == measure.logs["accuracy"] == 0.5


def test_a_shift_moves_whole_images_by_up_to_its_limit_and_repeats_the_border():
    images = torch.stack([ROWS, COLUMNS]).expand(400, 2, 9, 7)  # a pixel's value is where it came from
    moved = shifted(images, 2)
    down, across = moved[:, 0, 4, 0] - 4, moved[:, 1, 0, 3] - 3
    assert {*down.tolist()} == {*across.tolist()} == {-2, -1, 0, 1, 2}
    assert len(torch.stack([down, across]).unique(dim=1).T) == 25
    assert torch.equal(moved[:, 0], (ROWS + down.view(-1, 1, 1)).clamp(0, 8))
    assert torch.equal(moved[:, 1], (COLUMNS + across.view(-1, 1, 1)).clamp(0, 6))


def test_only_training_shifts():
    seen = []

    class Watching(Certain):
        def forward(self, images):
            seen.append(images)
            return super().forward(images)

    networks = {"classifier": Watching()}
    step = Step(0, 0, torch.device("cpu"), networks, networks, nullcontext)
    digits = Digits()
    images, labels = digits.read(torch.arange(8))
    batch = Batch(F.pad(images.float(), (2, 2, 2, 2)), labels, 0)
    objective = Classification(4, shift=2)
    for turn in (*objective.turns(), *objective.measures()):
        turn.loss(Batch(batch.images, labels % 4, 0), step)
    assert not torch.equal(seen[0], batch.images) and torch.equal(seen[1], batch.images)


def test_the_objective_is_registered_with_what_data_supplies():
    table = {"type": "classifier", "shift": 3}
    objective = plugins.load().registry.create(Objective, table, supplied={"num_classes": 10}, where=str)
    assert (objective.shift, objective.samples) == (3, None)
