import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from classifier_runs import toolkit
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from toolkit import CheckpointError, DataError, FeatureExtractor, PluginError, load, load_network
from toolkit.registry import load as plugins
from toolkit.sources.digits import Digits
from toolkit_classifier.extractor import ClassifierFeatures

CPU = torch.device("cpu")


@pytest.fixture
def saved(classifier_run, tmp_path) -> Path:
    """A network folder to be changed."""
    return Path(shutil.copytree(classifier_run / "networks" / "classifier", tmp_path / "copy"))


def edit(folder, change):
    path = folder / "network.json"
    stated = json.loads(path.read_text())
    change(stated)
    path.write_text(json.dumps(stated))


def replace_weights(saved, state):
    """Put other weights in a saved network's folder, with their digest."""
    file = saved / "weights.safetensors"
    save_file(state, file)
    edit(saved, lambda stated: stated["digests"].update({file.name: sha256(file.read_bytes()).hexdigest()}))


def digits(n=300):
    return Digits(split="test").read(torch.arange(n))


@pytest.mark.slow
def test_an_extractor_gives_what_the_saved_network_computes(classifier_run):
    images, labels = digits()
    network = load_network(classifier_run).network
    found = ClassifierFeatures(classifier_run).extract(images, CPU)
    x = images / 127.5 - 1
    assert torch.equal(found.features, torch.cat([network.features(part) for part in x.split(256)]))
    assert torch.allclose(found.logits, network(x), atol=1e-5)
    assert found.features.shape == (300, 32) and found.features.dtype == torch.float32
    assert (found.logits.argmax(1) == labels).float().mean() > 0.9


@pytest.mark.slow
def test_features_are_a_function_of_the_folder_wherever_it_is(classifier_run, saved):
    run, copy = ClassifierFeatures(classifier_run), ClassifierFeatures(saved)
    images, _ = digits(50)
    assert (run.identity, run.name) == (copy.identity, copy.name)
    assert torch.equal(run.extract(images, CPU).features, copy.extract(images, CPU).features)


@pytest.mark.slow
def test_other_weights_are_another_extractor_with_another_name(classifier_run, saved):
    state = load_file(saved / "weights.safetensors")
    state["head.bias"][3] += 1e-3
    replace_weights(saved, state)
    run, other = ClassifierFeatures(classifier_run), ClassifierFeatures(saved)
    assert run.identity != other.identity and run.name != other.name
    assert run.name == f"classifier_{run.identity[:8]}"


@pytest.mark.slow
def test_the_size_that_images_are_brought_to_is_part_of_the_identity(classifier_run, saved):
    edit(saved, lambda stated: stated.update(sample_shape=[1, 16, 16]))
    assert ClassifierFeatures(saved).identity != ClassifierFeatures(classifier_run).identity


@pytest.mark.slow
def test_larger_images_are_shrunk_without_aliases(classifier_run):
    """One column in four is white: a quarter of the light, but half of it where a filter sees two columns."""
    extractor = ClassifierFeatures(classifier_run)
    stripes = ((torch.arange(32) % 4 == 1) * 255).to(torch.uint8).expand(1, 1, 32, 32)
    quarter, half = (torch.full((1, 1, 8, 8), level, dtype=torch.uint8) for level in (64, 128))
    found, smooth, aliased = (extractor.extract(x, CPU).features for x in (stripes, quarter, half))
    assert (found - smooth).norm() < 0.3 * (found - aliased).norm()


@pytest.mark.slow
def test_smaller_images_are_enlarged_bilinearly(classifier_run):
    extractor, network = ClassifierFeatures(classifier_run), load_network(classifier_run).network
    images = digits(20)[0][:, :, ::2, ::2]
    enlarged = F.interpolate(images / 127.5 - 1, (8, 8), mode="bilinear")
    found = extractor.extract(images, CPU).features
    assert torch.allclose(found, network.features(enlarged), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 8, 8), (2,)])
def test_examples_of_other_channels_are_refused(classifier_run, shape):
    with pytest.raises(DataError, match=r"looks at pictures with 1 channel, not at examples of shape"):
        ClassifierFeatures(classifier_run).extract(torch.zeros(4, *shape, dtype=torch.uint8), CPU)


@pytest.mark.slow
def test_a_loaded_network_is_frozen_and_in_eval_mode_and_knows_its_classes(classifier_run):
    saved = load_network(classifier_run)
    assert not saved.network.training
    assert not any(p.requires_grad for p in saved.network.parameters())
    assert (saved.saved.num_classes, saved.saved.sample_shape) == (10, (1, 8, 8))
    assert saved.saved.model == {
        "role": "classifier",
        "weights": "ema",
        "steps": 150,
        "recipe": "digits",
    }


def test_a_missing_network_is_said_to_be_missing(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        load_network("nowhere")
    with pytest.raises(CheckpointError, match="no network here, neither network.json nor networks/"):
        load_network(tmp_path)


@pytest.mark.slow
def test_of_several_networks_one_has_to_be_chosen(saved, tmp_path):
    for role in ("teacher", "student"):
        shutil.copytree(saved, tmp_path / "run" / "networks" / role)
    with pytest.raises(CheckpointError, match=r"choose one: .*student, .*teacher$"):
        load_network(tmp_path / "run")
    assert load_network(tmp_path / "run" / "networks" / "student").saved.num_classes == 10


@pytest.mark.slow
def test_damaged_folders_are_refused(saved):
    edit(saved, lambda stated: stated["network"].update(width=64))
    with pytest.raises(CheckpointError, match=r"of another architecture: 'embed.*' has shape \(32"):
        load_network(saved)
    (saved / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="weights.safetensors: cannot be read"):
        load_network(saved)
    edit(saved, lambda stated: stated.pop("network"))
    with pytest.raises(CheckpointError, match="network.json: is damaged, or of another version: network: "):
        load_network(saved)


@pytest.mark.slow
def test_a_missing_plugin_is_named(saved):
    assert set(json.loads((saved / "network.json").read_text())["plugins"]) == {"classifier"}
    edit(saved, lambda stated: stated["plugins"].update(sparkle="toolkit-sparkle 0.3"))
    with pytest.raises(PluginError, match="needs plugin 'sparkle' of toolkit-sparkle 0.3"):
        load_network(saved)


@pytest.mark.slow
def test_another_network_is_no_classifier(saved):
    (saved / "weights.safetensors").unlink()
    table = {"type": "ddgan_mlp_discriminator", "width": 8}
    supplied = {"sample_shape": (2,), "image_shape": (2,), "num_classes": None, "schedule": None}
    network = plugins.load().registry.create(torch.nn.Module, table, supplied=supplied, where=str)
    replace_weights(saved, network.state_dict())
    edit(saved, lambda stated: stated.update(network=table, sample_shape=[2]))
    with pytest.raises(CheckpointError, match="which is not a classifier"):
        ClassifierFeatures(saved)


@pytest.mark.slow
def test_a_classifier_is_not_loaded_as_a_pipeline(classifier_run):
    with pytest.raises(CheckpointError, match="toolkit.load_network reads it"):
        load(classifier_run)


@pytest.mark.slow
def test_a_protocol_chooses_the_classifier_of_a_run(classifier_run):
    table = {"type": "classifier", "path": str(classifier_run)}
    extractor = plugins.load().registry.create(FeatureExtractor, table, supplied={}, where=str)
    assert extractor.name == ClassifierFeatures(classifier_run).name


@pytest.mark.slow
def test_toolkit_evaluate_names_its_scores_by_the_classifier(classifier_run, tmp_path):
    from PIL import Image

    (tmp_path / "digits").mkdir()
    for number, picture in enumerate(digits(100)[0]):
        Image.fromarray(picture[0].numpy()).save(tmp_path / "digits" / f"{number}.png")
    (tmp_path / "digits.toml").write_text('[data]\ntype = "digits"\n')
    result = toolkit(
        "evaluate", str(tmp_path / "digits"), "--metrics", "fid", "--features", "classifier",
        "--set", f"features.path={classifier_run}", "--data", str(tmp_path / "digits.toml"), "--num", "100",
        "--out", str(tmp_path / "scores"), "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"fid_{ClassifierFeatures(classifier_run).name}" in result.output
