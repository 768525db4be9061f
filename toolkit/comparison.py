"""The two sets of a comparison, generated and real, and their features; all of it kept on disk.

Work is cut into chunks of examples. A chunk that is there is not made again, so an evaluation that was
stopped goes on, one with more images adds to those it has, and processes share the chunks out.
"""

import hashlib
import itertools
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toolkit.data.source import DataSource
from toolkit.errors import CheckpointError, RunError
from toolkit.features import FeatureExtractor, Features
from toolkit.files import read_tensors, sha256_of_state, write_tensors
from toolkit.grid import to_uint8
from toolkit.options import EvaluationOptions
from toolkit.pipeline import Pipeline

CHUNK = 500
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Share:
    """Which of the chunks are this process's, and how it waits for the others."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Comparison:
    """Generated against real examples.

    Attributes:
        generator: a model, which is sampled, or a folder of images, whose first `options.num` are taken.
        identity: of the model and how it is sampled (`identity_of`); "" for a folder.
        source: the real examples.
        options: how many of each, and the seed.
        extractor: None if no metric compares features.
        folder: where samples are kept.
        progress: is told what is being done, and how many of how many images are.
        share: of several processes.
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

    def generated(self) -> Iterator[Tensor]:
        """Chunks of generated examples: uint8 (n, C, H, W) as a picture file would have them, or float32."""
        if isinstance(self.generator, DataSource):
            yield from read_in_chunks(self.generator, self.options.num)
            return
        self._sample(self.generator)
        for first, n in chunks(self.options.num):
            yield read_tensors(self._sampled(first), RunError)["samples"][:n]

    def real(self) -> Iterator[Tensor]:
        """Chunks of real examples, as `generated`."""
        return read_in_chunks(self.source, self.options.real or len(self.source))

    def features(self) -> tuple[Features, Features]:
        """Features of the generated and of the real images.

        Raises:
            RunError: if there is no extractor.
        """
        if self.extractor is None:
            raise RunError("this metric compares features: state --features, e.g. --features inception")
        generated = self._all_features("generated", self.generated, self.options.num)
        return generated, self._all_features("real", self.real, self.options.real or len(self.source))

    def _all_features(self, what: str, examples: Callable[[], Iterator[Tensor]], total: int) -> Features:
        rank, count = self.share.rank, self.share.count
        if count > 1:  # each process its share first; then all of them find everything in the cache
            for chunk in itertools.islice(examples(), rank, None, count):
                self._features(chunk)
            self.share.wait()
        parts: list[Features] = []
        for i, chunk in enumerate(examples()):
            parts.append(self._features(chunk))
            self.progress(f"features of {what} images", i * CHUNK + len(chunk), total)
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)

    def _sampled(self, first: int) -> Path:
        digest = hashlib.sha256(f"{self.identity} {self.options.seed}".encode()).hexdigest()
        return self.folder / f"samples-{digest[:8]}" / f"{first:06d}.safetensors"

    def _sample(self, pipeline: Pipeline) -> None:
        """Make the chunks of samples that are not there."""
        total = self.options.num
        for first, n in itertools.islice(chunks(total), self.share.rank, None, self.share.count):
            path = self._sampled(first)
            if _rows(path) >= n:
                continue

            def told(done: int, batch: int, calls: int, first: int = first) -> None:
                share = calls / max(pipeline.calls, 1)
                self.progress("sampling", first + done + int(batch * share), total)

            batches = pipeline.sample(
                n, seed=self.options.seed, first=first, batch_size=self.options.batch_size, progress=told
            )
            samples = torch.cat([batch.cpu() for batch in batches])
            write_tensors(path, {"samples": to_uint8(samples) if samples.ndim == 4 else samples})
        self.share.wait()

    def _features(self, images: Tensor) -> Features:
        """Features of a chunk, kept by its content: another set of the same name finds nothing."""
        assert self.extractor is not None
        content = hashlib.sha256(images.numpy().tobytes())
        content.update(f"{tuple(images.shape)} {self.extractor.identity} {platform.machine()}".encode())
        path = self.cache / f"{content.hexdigest()}.safetensors"
        try:
            kept = read_tensors(path, CheckpointError) if path.exists() else None
        except CheckpointError:
            kept = None  # damaged: it is only a cache
        if kept is None:
            found = self.extractor.extract(images, self.device)
            logits = {} if found.logits is None else {"logits": found.logits.cpu()}
            kept = {"features": found.features.cpu(), **logits}
            write_tensors(path, kept)
        return Features(kept["features"], kept.get("logits"))


def chunks(total: int) -> Iterator[tuple[int, int]]:
    """The first example and the size of every chunk."""
    for first in range(0, total, CHUNK):
        yield first, min(CHUNK, total - first)


def read_in_chunks(source: DataSource, num: int) -> Iterator[Tensor]:
    """The first `num` examples of a source, or all if it has fewer."""
    for first, n in chunks(min(num, len(source))):
        yield source.read(torch.arange(first, first + n))[0]


def identity_of(pipeline: Pipeline) -> str:
    """A hash of all that its samples depend on, the seed aside: weights and how they are sampled."""
    tables = {kind: pipeline.description.tables[kind] for kind in ("schedule", "sampler", "initialiser")}
    return sha256_of_state(pipeline.denoiser.state_dict(), tables)


def cache_folder() -> Path:
    """Where features are kept between evaluations: $XDG_CACHE_HOME/diffusion-toolkit/features."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusion-toolkit" / "features"


def _rows(path: Path) -> int:
    if not path.exists():
        return 0
    return len(read_tensors(path, RunError)["samples"])
