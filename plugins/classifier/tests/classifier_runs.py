"""A classifier that learns 8x8 digits in seconds, trained through the command line in this process."""

from pathlib import Path

from click.testing import CliRunner, Result

from toolkit.cli import main

DIGITS = """
[run]
batch_size = 64
steps = 150
log_every = 20
[data]
type = "digits"
[objective]
type = "classifier"
shift = 1
label_smoothing = 0.05
[networks.classifier]
type = "classifier_cnn"
channels = 16
width = 32
dropout = 0.1
[optimizers.classifier]
type = "adamw"
lr = 3e-3
[optimizers.classifier.lr_schedule]
type = "cosine"
steps = 150
[ema.classifier]
decay = 0.9
ramp = true
"""


def toolkit(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def train(folder: Path, *changes: str) -> Result:
    """`toolkit train` of that recipe, in `folder`."""
    recipe = folder.parent / "digits.toml"
    recipe.write_text(DIGITS)
    values = [f"--set={value}" for value in (f"run.out={folder}", *changes)]
    return toolkit("train", str(recipe), *values)


def trained(folder: Path, *changes: str) -> Path:
    """The run folder, after a run that must go well."""
    result = train(folder, *changes)
    assert result.exit_code == 0, result.output
    return folder
