"""Checks of data sources."""

import pickle

import torch
from torch import Tensor

from toolkit.data.source import DataSource
from toolkit.testing.case import Case
from toolkit.testing.randomness import without_draws
from toolkit.testing.requirement import require

LOOKED_AT = 64
COMPARED = 2048


def _indices(source: DataSource, n: int = LOOKED_AT) -> Tensor:
    return torch.arange(min(n, len(source)))


def _same(a: tuple[Tensor, Tensor | None], b: tuple[Tensor, Tensor | None]) -> bool:
    labels = a[1] is b[1] is None or (a[1] is not None and b[1] is not None and torch.equal(a[1], b[1]))
    return torch.equal(a[0], b[0]) and labels


def check_examples(case: Case) -> None:
    """Pictures are uint8 or float32, other data finite float32, of image_shape; labels fit num_classes."""
    source: DataSource = case.build()
    require(len(source) > 0, "is empty")
    indices = _indices(source)
    images, labels = source.read(indices)
    wanted = (len(indices), *source.image_shape)
    require(images.shape == wanted, f"read gives {tuple(images.shape)}, but image_shape promises {wanted}")
    if len(source.image_shape) == 3 and images.dtype != torch.float32:
        require(images.dtype == torch.uint8, f"pictures are {images.dtype}: they must be uint8, 0..255")
    else:
        require(images.dtype == torch.float32, f"examples are {images.dtype}: they must be float32")
        require(images.isfinite().all(), "has examples that are not finite")
    if source.num_classes is None:
        require(labels is None, "gives labels, but num_classes is None: state how many classes there are")
        return
    require(labels is not None, f"gives no labels, but num_classes is {source.num_classes}")
    assert labels is not None
    require(labels.shape == (len(indices),), f"labels have shape {tuple(labels.shape)}: one a row")
    require(labels.dtype == torch.int64, f"labels are {labels.dtype}: they must be int64")
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0 and high < source.num_classes,
        f"labels run from {low} to {high}: they must be 0..{source.num_classes - 1}",
    )
    known = source.all_labels()
    require(
        known is None or (len(known) == len(source) and torch.equal(known[indices], labels)),
        "all_labels() gives others than read(): one for each example, in their order",
    )


def check_any_order(case: Case) -> None:
    """An example is the same in whatever order and batch it is read."""
    source: DataSource = case.build()
    indices = _indices(source)
    images, labels = source.read(indices)
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
    shuffled = source.read(indices[order])
    require(
        _same(shuffled, (images[order], None if labels is None else labels[order])),
        "examples change with the order of reading: row i of read(indices) must be example indices[i]",
    )
    for i in order[:4].tolist():
        one = source.read(indices[i : i + 1])
        require(
            _same(one, (images[i : i + 1], None if labels is None else labels[i : i + 1])),
            f"example {i} read alone differs from the same one in a batch: it may depend on its index only",
        )


def check_picklable(case: Case) -> None:
    """It can be sent to worker processes, and reads the same there."""
    source: DataSource = case.build()
    try:
        again = pickle.loads(pickle.dumps(source))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        require(False, f"cannot be pickled ({reason}): open files in read, keep no handles and no lambdas")
    indices = _indices(source)
    require(_same(source.read(indices), again.read(indices)), "a pickled copy reads other examples")


def check_draws_nothing(case: Case) -> None:
    """Reading draws no random numbers: the same collection every time."""
    source: DataSource = case.build()
    indices = _indices(source)
    help = "a source is a fixed collection; noise and augmentation are the objective's"
    with without_draws("reading", help):
        first = source.read(indices)
    require(
        _same(first, source.read(indices)) and _same(first, case.build(seed=1).read(indices)),
        "the same indices gave other examples, now or in a source that was built anew: seed what the "
        "constructor draws by an option, with a torch.Generator of its own",
    )


def check_held_out(case: Case) -> None:
    """Held-out examples have the same form, and are not trained on."""
    source: DataSource = case.build()
    held_out = source.held_out()
    if held_out is None:
        return
    form = tuple(held_out.image_shape), held_out.num_classes
    require(
        form == (tuple(source.image_shape), source.num_classes),
        f"held-out examples have shape {form[0]} and {form[1]} classes, others than those trained on",
    )
    require(len(held_out) > 0, "keeps an empty set: held_out() should return None where there is nothing")
    trained = {row.numpy().tobytes() for row in source.read(_indices(source, COMPARED))[0]}
    kept = [row.numpy().tobytes() for row in held_out.read(_indices(held_out, COMPARED))[0]]
    shared = sum(row in trained for row in kept) / len(kept)
    require(
        shared < 0.5,
        f"{shared:.0%} of the held-out examples are trained on: held_out() must leave them out of the source",
    )


CHECKS = (check_examples, check_any_order, check_picklable, check_draws_nothing, check_held_out)
