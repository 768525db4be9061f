"""The generated and the real examples of a comparison, and their features; both stay on disk.

Work is cut into chunks of examples. A chunk on disk is not made again: an evaluation that was stopped goes
on, one of more images adds to what there is, and several processes divide the chunks among them.
"""

import importlib.metadata
import itertools
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from toolkit.data.source import DataSource
from toolkit.errors import CheckpointError, RunError
from toolkit.evaluation.features import FeatureExtractor, Features
from toolkit.files import digest, read_tensors, write_tensors
from toolkit.pipeline.images import to_uint8
from toolkit.pipeline.pipeline import Pipeline
from toolkit.registry.signature import Positive


@dataclass(frozen=True)
class EvaluationOptions:
    """Which samples `toolkit evaluate` compares with which real examples.

    Args:
        num: generated images.
        real: real images, the first ones of their split; None takes all.
        seed: image i is seeded seed + i.
        batch_size: images sampled at once.
    """

    num: Positive = 10_000
    real: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 64


CHUNK = 500  # examples
Progress = Callable[[str, int, int], None]
Read = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Share:
    """This process's share of the chunks: every `count`-th, from number `rank` on.

    Attributes:
        rank: of this process, 0..count-1.
        count: of processes.
        together: does work on every process and waits for all; a failure on one stops all.
    """

    rank: int = 0
    count: int = 1
    together: Callable[[Callable[[], None]], None] = lambda work: work()


@dataclass(frozen=True)
class Comparison:
    """Generated against real examples.

    Attributes:
        generator: a model, which is sampled, or a folder of images, whose first `options.num` are taken.
        identity: of the model and the code that samples it (`sampled_by`); "" for a folder.
        source: the real examples.
        options: how many of each, and the seed.
        extractor: None if no metric compares features.
        device: of the extractor.
        folder: where samples are kept.
        progress: called with what is being done, how many images are done, and of how many.
        share: this process's part of the work.
        cache: where features are kept, by the content of the images and the extractor's identity.
    """

    generator: Pipeline | DataSource
    identity: str
    source: DataSource
    options: EvaluationOptions
    extractor: FeatureExtractor | None
    device: torch.device
    folder: Path
    progress: Progress
    share: Share
    cache: Path

    @property
    def num_generated(self) -> int:
        """How many generated examples are compared; a folder may have fewer than were asked for."""
        sampled = isinstance(self.generator, Pipeline)
        return self.options.num if sampled else min(self.options.num, len(self.generator))  # type: ignore[arg-type]

    @property
    def num_real(self) -> int:
        return min(self.options.real or len(self.source), len(self.source))

    def generated(self) -> Iterator[Tensor]:
        """Chunks of generated examples: pictures uint8 (n, C, H, W), rounded; other data float32."""
        read = self._reader()
        for first, n in chunks(self.num_generated):
            yield read(first, n)

    def real(self) -> Iterator[Tensor]:
        """Chunks of real examples, in the form of `generated`."""
        return read_in_chunks(self.source, self.num_real)

    def features(self) -> tuple[Features, Features]:
        """Features of the generated and of the real images.

        Raises:
            RunError: if there is no extractor.
        """
        return self._both

    @cached_property
    def _both(self) -> tuple[Features, Features]:
        if self.extractor is None:
            raise RunError("this metric compares features: state --features, e.g. --features inception")
        generated = self._all_features("generated", self._reader(), self.num_generated)
        return generated, self._all_features("real", reader(self.source), self.num_real)

    def _reader(self) -> Read:
        """A function that reads chunks of generated examples, once all are made."""
        if isinstance(self.generator, DataSource):
            return reader(self.generator)
        pipeline = self.generator
        self.share.together(lambda: self._sample(pipeline))
        return lambda first, n: read_tensors(self._sampled(first), RunError)["samples"][:n]

    def _all_features(self, what: str, read: Read, total: int) -> Features:
        result: dict[int, Features] = {}

        def extract() -> None:
            for first, n in itertools.islice(chunks(total), self.share.rank, None, self.share.count):
                result[first] = self._features(read(first, n))
                self.progress(f"features of {what} images", first + n, total)

        self.share.together(extract)
        for first, n in chunks(total):
            if first not in result:  # another process has left it in the cache
                result[first] = self._features(read(first, n))
        parts = [result[first] for first, _ in chunks(total)]
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)

    def _sampled(self, first: int) -> Path:
        # Generators of another kind of device draw other numbers for the same seed.
        drawn_by = f"{self.identity} {self.options.seed} {self.device.type}"
        return self.folder / f"samples-{digest(drawn_by)[:16]}" / f"{first:06d}.safetensors"

    def _sample(self, pipeline: Pipeline) -> None:
        """Make the missing samples of this process's share; an interruption loses at most one batch."""
        total = self.num_generated
        for first, n in itertools.islice(chunks(total), self.share.rank, None, self.share.count):
            path = self._sampled(first)
            kept = _kept(path, pipeline.image_shape)
            if (have := sum(map(len, kept))) >= n:
                continue

            def report(done: int, batch: int, calls: int, first: int = first + have) -> None:
                share = calls / max(pipeline.calls, 1)
                self.progress("sampling", first + done + int(batch * share), total)

            for batch in pipeline.sample(
                n - have,
                seed=self.options.seed,
                first=first + have,
                batch_size=self.options.batch_size,
                progress=report,
            ):
                kept.append(to_uint8(batch).cpu() if pipeline.pictures else batch.cpu())
                write_tensors(path, {"samples": torch.cat(kept)})

    def _features(self, images: Tensor) -> Features:
        """Features of a chunk, cached by its content, not by the name of the set."""
        assert self.extractor is not None
        computed_by = (
            f"{self.extractor.name} {self.extractor.identity} {platform.machine()} {self.device.type}"
        )
        path = self.cache / f"{digest(images, computed_by)}.safetensors"
        try:
            kept = read_tensors(path, CheckpointError) if path.exists() else None
        except (CheckpointError, OSError):
            kept = None  # damaged or unreadable: only a cache
        if kept is None:
            result = self.extractor.extract(images, self.device)
            logits = {} if result.logits is None else {"logits": result.logits.cpu()}
            kept = {"features": result.features.cpu(), **logits}
            try:
                write_tensors(path, kept)
            except RunError:
                warnings.warn(f"features are not kept: {self.cache} cannot be written", stacklevel=1)
        return Features(kept["features"], kept.get("logits"))


def chunks(total: int) -> Iterator[tuple[int, int]]:
    """The first example and the size of each chunk of `total` examples."""
    for first in range(0, total, CHUNK):
        yield first, min(CHUNK, total - first)


def reader(source: DataSource) -> Read:
    """A function (first, n) -> examples that reads chunks of a source."""
    return lambda first, n: source.read(torch.arange(first, first + n))[0]


def read_in_chunks(source: DataSource, num: int) -> Iterator[Tensor]:
    """The first `num` examples of a source, or all if it has fewer."""
    read = reader(source)
    for first, n in chunks(min(num, len(source))):
        yield read(first, n)


def sampled_by(pipeline: Pipeline, identity: str) -> str:
    """A key for a pipeline's samples: its identity, their shape and classes, and the code that makes them."""
    packages = {
        name: importlib.metadata.version(name) for name in ("diffusion-toolkit", "diffusers", "torch")
    }
    drawn = [identity, list(pipeline.image_shape), pipeline.num_classes, packages]
    return json.dumps([*drawn, pipeline.plugins], sort_keys=True)


def identity_of_images(source: DataSource, num: int) -> str:
    """A hash of the first `num` examples."""
    return digest(*read_in_chunks(source, num))


def cache_folder() -> Path:
    """Where features are kept between evaluations: $XDG_CACHE_HOME/diffusion-toolkit/features."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusion-toolkit" / "features"


def _kept(path: Path, shape: tuple[int, ...]) -> list[Tensor]:
    """The samples of that shape in a chunk's file, as one tensor; empty if it is absent or damaged."""
    try:
        samples = read_tensors(path, CheckpointError).get("samples") if path.exists() else None
    except CheckpointError:
        return []
    return [samples] if samples is not None and samples.shape[1:] == shape else []
