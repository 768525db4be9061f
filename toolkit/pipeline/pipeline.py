"""Pipelines, trained models that sample: `Pipeline.from_pretrained(folder)(batch_size=16).images`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, get_args

import torch
from torch import Tensor

from toolkit.console import console, sampling_display
from toolkit.diffusion.denoiser import Denoiser, device_of
from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.guidance import Guidance
from toolkit.diffusion.sampler import Sampler, count_calls, walk
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.diffusion.start import Clean, Sampled, Saveable, Start
from toolkit.errors import CheckpointError, RecipeError, SamplingError, nearest, out_of_memory, printable
from toolkit.files import digest
from toolkit.pipeline.folder import (
    COMMON,
    MANIFEST,
    PARTS,
    README,
    Saved,
    Weights,
    describe_checkpoint,
    fill,
    plugins_of,
    read_pipeline,
    read_weights,
    text_of,
    whole,
    write_pipeline,
)
from toolkit.pipeline.images import OutputType, convert
from toolkit.randomness import generators_for
from toolkit.registry.load import load
from toolkit.registry.registry import Registry, bracketed


@dataclass(frozen=True)
class PipelineOutput:
    """Samples of a pipeline.

    Attributes:
        images: PIL images; or an array (n, H, W, C) or a tensor (n, C, H, W), float32 in [0, 1]. Data other
            than pictures, e.g. points (n, 2), is left unscaled.
    """

    images: Any


class Pipeline:
    """A denoiser, its noise schedule, a sampler and a start, with diffusers' calling conventions.

    Attributes:
        saved: its description, as in its folder.
        times: the times of its walk, descending, the path's `clean` the last.
        readme: the README.md of the folder that it was loaded from, which is saved with it.

    Raises:
        RecipeError: if the sampler or the guidance does not fit the schedule or the network.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        sampler: Sampler,
        start: Start,
        saved: Saved,
        registry: Registry,
        guidance: Guidance | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        table = saved.sampler or {}
        if encoder is not None and table.get("clip"):
            raise RecipeError("[sampler] clip = true clips to the range of pictures, and these are latents")
        try:
            grid = sampler.grid(schedule, table.get("num_inference_steps"), table.get("spacing"))
        except ValueError as error:
            raise RecipeError(f"[sampler] {error}") from None
        try:
            if guidance is not None:
                guidance.refuse(denoiser)
                for option, inner in guidance.pipelines().items():
                    if not _same_encoder(encoder, getattr(inner, "encoder", None)):
                        raise ValueError(f"{option}: its [encoder] is another than this model's")
                guidance.to(device_of(denoiser))
        except ValueError as error:
            raise RecipeError(f"[guidance] {error}") from None
        if not denoiser.respaceable and grid != (own := schedule.grid(None, None)):
            raise RecipeError(
                f"[sampler] takes {len(grid) - 1} steps, but this network was trained for the "
                f"{len(own) - 1} steps of its schedule, and for no others"
            )
        self.times = tuple(t for t in grid if t <= start.time)
        self.guidance, self.encoder = guidance, encoder
        self.denoiser, self.schedule, self.sampler, self.start = denoiser, schedule, sampler, start
        self.saved, self.registry = saved, registry
        self.readme: str | None = None

    @classmethod
    def from_saved(cls, saved: Saved, registry: Registry, where: object) -> Self:
        """Build all parts from their tables; the denoiser has fresh weights, is in eval mode and frozen.

        Raises:
            PluginError: if a component belongs to no installed plugin.
            RecipeError: if a component refuses its options.
        """
        schedule = saved.build("schedule", registry, saved.supplied(), where)
        supplied = saved.supplied(schedule)
        # Frozen, like a run's average: kernels may round differently for weights that require a gradient.
        denoiser = saved.build("network", registry, supplied, where).eval().requires_grad_(False)
        sampler, start = (saved.build(name, registry, supplied, where) for name in ("sampler", "start"))
        guidance = saved.build("guidance", registry, supplied, where) if saved.guidance else None
        encoder = saved.build("encoder", registry, supplied, where) if saved.encoder else None
        return cls(denoiser, schedule, sampler, start, saved, registry, guidance, encoder)

    @classmethod
    def from_pretrained(cls, path: str | Path, weights: Weights | None = None) -> Self:
        """Load a pipeline folder, a run or a checkpoint, a folder of diffusers' own, or one from the Hub.

        Classes are looked up among installed, registered components; nothing in the folder is executed.

        Args:
            path: a folder, or a Hub id such as "google/ddpm-cifar10-32".
            weights: "ema" or "raw", of the newest checkpoint; by default the averaged ones, if there are any.

        Returns:
            A pipeline on the CPU.

        Raises:
            CheckpointError: if there is no pipeline, or it is damaged.
            PluginError: naming a plugin that is missing.
            RecipeError: if a component refuses its options.
        """
        plugins = load()
        saved, folder, state = read_pipeline(path, plugins, weights)
        ours = folder / "pipeline.json"
        pipeline = cls.from_saved(saved, plugins.registry, ours if state is None else folder)
        if state is None:
            chosen: Any = saved.weights if (folder / MANIFEST).is_file() else None
            read_weights(folder, pipeline.denoiser, plugins.registry, CheckpointError, saved.role, chosen)
            pipeline.readme = text_of(folder / README)
        else:
            fill(pipeline.denoiser, state, folder, CheckpointError)
        return pipeline

    def save_pretrained(self, path: str | Path, *, run: Path | None = None) -> None:
        """Write a pipeline folder; an earlier one there is replaced as a whole, except for its README.md.

        Plugins are notified (`toolkit_pipeline_saved`).

        Args:
            path: the folder.
            run: the run folder whose result it is, if any.

        Raises:
            RunError: if the folder holds other files, or cannot be written.
        """
        parts = (self.saved, self.denoiser, self.sampler, self.start, self._folders)
        write_pipeline(Path(path), *parts, self.registry, self.readme)
        load().tell("toolkit_pipeline_saved", folder=Path(path), run=run)

    def __repr__(self) -> str:
        saved = self.saved
        shape = "x".join(map(str, self.image_shape))
        parts = f"{saved.network['type']} of {shape}, {saved.tables['sampler']['type']} sampler"
        made = [f"{key} {saved.model[key]}" for key in ("recipe", "steps", "weights") if key in saved.model]
        return f"Pipeline({', '.join([parts, f'{self.calls} network calls', *made])})"

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of what the network denoises, e.g. (3, 32, 32); of latents, if there is an encoder."""
        return self.saved.sample_shape

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one sample as returned, e.g. (3, 32, 32)."""
        return self.saved.image_shape or self.saved.sample_shape

    @property
    def pictures(self) -> bool:
        """Whether samples are pictures (C, H, W) in [-1, 1], and not other numbers."""
        return self.saved.pictures and len(self.image_shape) == 3

    @property
    def identity(self) -> str:
        """A hash of everything samples depend on but the seed: weights, architecture and sampling.

        A pipeline inside it, e.g. one that its start samples, counts by its own identity, not by its folder.
        """
        names = [name for name in self.saved.tables if name != "encoder"]
        encoder = {} if self.encoder is None else self.encoder.state_dict()
        return digest({name: self.table(name) for name in names}, self.denoiser.state_dict(), encoder)

    def table(self, part: str) -> dict[str, object] | None:
        """The table of a part, e.g. "sampler", with identities of pipelines instead of folders, or None."""
        inner = {name: pipeline.identity for name, pipeline in self._inner.get(part, {}).items()}
        table = self.saved.tables.get(part)
        return None if table is None else {**table, **inner}

    @property
    def plugins(self) -> list[object]:
        """The plugins of its components, with their distributions, then those of each pipeline inside it."""
        pipelines = [pipeline for several in self._inner.values() for pipeline in several.values()]
        own = plugins_of(self.saved.tables, self.registry)
        return [own, *(pipeline.plugins for pipeline in pipelines)]

    def describe(self, checkpoint: Path) -> None:
        """Write into a checkpoint what it takes to sample its weights."""
        describe_checkpoint(checkpoint, self.saved, self._folders, self.registry)

    def refuse_outside(self) -> None:
        """Refuse what no folder could hold: a part that reads elsewhere, e.g. a start from examples.

        Raises:
            RecipeError: naming the option.
        """
        whole(self.saved, self._folders, self.registry)

    @property
    def _folders(self) -> dict[str, Mapping[str, Saveable]]:
        """What is saved in folders below its own, by part and option."""
        encoding = {} if self.encoder is None else {"encoder": self.encoder.folders()}
        return {**self._inner, **encoding}

    @property
    def _inner(self) -> dict[str, Mapping[str, Sampled]]:
        """The pipelines inside its parts, by part and option."""
        guiding = {} if self.guidance is None else {"guidance": self.guidance.pipelines()}
        return {"start": self.start.pipelines(), **guiding}

    @property
    def num_classes(self) -> int | None:
        """The number of classes that can be asked for; None for a model that is not conditional."""
        return self.saved.num_classes if self.denoiser.conditional else None

    @property
    def device(self) -> torch.device:
        return device_of(self.denoiser)

    def to(self, device: str | torch.device) -> Self:
        self.denoiser.to(device)
        if self.encoder is not None:
            self.encoder.to(device)
        if self.guidance is not None:
            self.guidance.to(self.device)
        return self

    def compile(self, **options: Any) -> Self:
        """Compile the network, in place: the first batch takes a minute or more, those after it less.

        `sample` then fills its last batch up, because another batch size would compile once more.

        Args:
            options: of torch.compile; mode="reduce-overhead" replays CUDA graphs, for small batches.
        """
        self.denoiser.compile(**{"dynamic": False, **options})
        return self

    def with_sampler(self, type: str | None = None, **options: Any) -> "Pipeline":
        """The same weights with another sampler, or with other options of the same one.

        Args:
            type: a registered sampler's name, e.g. "ddim"; None keeps the present one.
            options: of that sampler, e.g. num_inference_steps=50. All other options that both samplers have
                keep their values.

        Raises:
            RecipeError: if there is no such sampler or option, or it does not fit the schedule.
        """
        sampler, saved = self._other("sampler", type, options)
        return self._with(sampler=sampler, saved=saved)

    def with_start(self, type: str | None = None, **options: Any) -> "Pipeline":
        """The same weights with another start, or with other options of the same one.

        Args:
            type: a registered start's name, e.g. "noise"; None keeps the present one and its options.
            options: of that start.

        Raises:
            RecipeError: if there is no such start or option, or it refuses them.
        """
        start, saved = self._other("start", type, options)
        return self._with(start=start, saved=saved)

    def with_guidance(self, type: str | None = None, **options: Any) -> "Pipeline":
        """The same weights with another guidance, or with other options of the same one.

        Args:
            type: a registered guidance's name, e.g. "cfg"; None keeps the present one and its options.
            options: of that guidance, e.g. scale=2.

        Raises:
            RecipeError: if there is no such guidance or option, or it cannot guide this network.
        """
        if type is None and self.guidance is None:
            raise RecipeError("[guidance] this pipeline has none: name a type, such as cfg")
        guidance, saved = self._other("guidance", type, options)
        return self._with(guidance=guidance, saved=saved)

    def _with(self, **parts: Any) -> "Pipeline":
        names = ("denoiser", "schedule", "sampler", "start", "saved", "registry", "guidance", "encoder")
        return Pipeline(**{**{name: getattr(self, name) for name in names}, **parts})

    def _other(self, name: str, chosen: str | None, options: Any) -> tuple[Any, Saved]:
        """A part built from other options, and the description of the pipeline that has it."""
        kind, present = PARTS[name], self.saved.tables.get(name, {"type": chosen})
        another = chosen not in (None, present["type"])
        component = self.registry.components(kind).get(str(chosen)) if another else None
        names = {o.name for o in component.options} if component else set()
        names |= {field.name for field in fields(COMMON[name])} if name in COMMON else set()
        shared = names & present.keys()
        base = {"type": chosen, **{option: present[option] for option in shared}} if another else present

        def located(path: tuple[str, ...]) -> str:
            return bracketed((name, *path))

        table = self.registry.complete(kind, {**base, **options}, located, common=COMMON.get(name))
        part = table.build(self.saved.supplied(self.schedule), located)
        return part, self.saved.model_copy(update={name: table.plain})

    def without_refining(self) -> "Pipeline":
        """A pipeline whose samples are what those of this one start from: the x_0 of its start."""
        return self._with(start=Clean(self.start))

    @cached_property
    def calls(self) -> int:
        """Network calls of one sample, those of guidance included, those of the start not."""
        return count_calls(self.sampler, self.schedule, self.times, len(self.sample_shape), self.guidance)

    def draw(
        self,
        generators: Sequence[torch.Generator] | None,
        n: int,
        *,
        label: Tensor | None = None,
        noise: Tensor | None = None,
        latents: Sequence[Tensor] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """n samples (n, *image_shape) float32 on the pipeline's device; pictures are clamped to [-1, 1].

        Args:
            generators: one per sample, on the pipeline's device; None draws from torch's own.
            n: how many.
            label: (n,) int64, the classes to sample.
            noise: (n, *sample_shape), replaces the x that the start draws.
            latents: replace what the denoiser would draw: one tensor (n, ...) per network call.
            progress: called with the number of network calls done.

        Raises:
            ValueError: if noise has another shape, or there is not one of `latents` per network call.
            SamplingError: naming the step after which samples are not finite; if they do not fit in memory.
        """
        self.denoiser.eval()  # a run's network may be in training mode: the trainer's next step restores that
        shape, t = (n, *self.sample_shape), self.times[0] if self.times else self.schedule.clean
        if noise is not None and noise.shape != shape:
            raise ValueError(f"noise must be {shape}, as the samples are, not {tuple(noise.shape)}")
        if label is not None and self.num_classes is not None:
            most = self.num_classes - 1 + self.denoiser.null_class
            if label.shape != (n,) or not bool(((label >= 0) & (label <= most)).all()):
                raise ValueError(f"label must be ({n},) of the classes 0..{most}, not {label.tolist()[:8]}")
        with torch.inference_mode(), _enough_memory(shape):
            x = self.start.draw(shape, generators, t, self.device) if noise is None else noise
            x = walk(
                self.sampler, self.denoiser, self.schedule, x, self.times,
                generators=generators, label=label, latents=latents, guidance=self.guidance,
                progress=progress,
            )  # fmt: skip
            x = self.decode(x)
            if self.encoder is not None and not bool(x.isfinite().all()):
                raise SamplingError("images are not finite (NaN or infinite) after decoding")
            x = x.clamp(-1, 1) if self.pictures else x
        return x.clone()  # tensors made in inference mode cannot be trained on

    def encode(self, images: Tensor) -> Tensor:
        """Encode images (n, *image_shape) in [-1, 1]; (n, *sample_shape) float32, as the network denoises."""
        if self.encoder is None:
            return images
        with torch.inference_mode():
            return self.encoder.encode(images.to(self.device)).clone()

    def decode(self, x: Tensor) -> Tensor:
        """Decode x (n, *sample_shape) to images (n, *image_shape), float32 near [-1, 1]."""
        if self.encoder is None:
            return x
        with torch.inference_mode():
            return self.encoder.decode(x.to(self.device)).clone()

    def sample(
        self,
        num: int,
        *,
        seed: int = 0,
        first: int = 0,
        batch_size: int = 64,
        labels: Sequence[int | str] | int | None = None,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> Iterator[Tensor]:
        """Samples first..first+num-1 in batches (n, *image_shape); sample i depends on seed + i alone.

        Args:
            num: how many samples.
            seed: of sample 0.
            first: number of the first sample.
            batch_size: samples at once.
            labels: the class of each or of all, by number or name; None takes the classes in turn.
            progress: called with the offset and the size of the current batch, and the network calls done
                for it.

        Raises:
            ValueError: if labels are not one per sample, or not classes of the model.
        """
        chosen = None if labels is None else self._each(labels, num)
        compiled = self.denoiser._compiled_call_impl is not None
        for done in range(0, num, batch_size):
            n = min(batch_size, num - done)
            size = min(batch_size, num) if compiled else n
            label = None if chosen is None else chosen[done : done + n]
            if label is None:
                label = self._turns(seed + first + done, size)
            elif size > n:
                label = torch.cat([label, label.new_zeros(size - n)])
            images = self.draw(
                generators_for(seed, first + done, size, self.device),
                size,
                label=label,
                progress=None if progress is None else partial(progress, done, n),
            )
            yield images[:n]

    def _turns(self, first: int, n: int) -> Tensor | None:
        """Labels (n,) that take the classes in turn, beginning with class `first` modulo their number."""
        classes = self.saved.num_classes
        return None if classes is None else (first + torch.arange(n, device=self.device)) % classes

    def _each(self, labels: Sequence[int | str] | int, n: int) -> Tensor:
        labels = [labels] * n if isinstance(labels, int | str) else labels
        if len(labels) != n:
            raise ValueError(f"labels must be one for each of {n} images, got {len(labels)}")
        return self.classes(labels)

    def classes(self, labels: Sequence[int | str]) -> Tensor:
        """Classes (n,) int64 on the pipeline's device, from numbers and names.

        Raises:
            ValueError: if one is not a class, or if the model is not conditional.
        """
        if self.num_classes is None:
            raise ValueError("labels are for a conditional model, which this is not")
        names = {name: i for i, name in enumerate(self.saved.class_names or ())}
        if unknown := [label for label in labels if isinstance(label, str) and label not in names]:
            known = nearest(unknown[0], names) or f" Classes: {', '.join(names) or 'numbers only'}."
            raise ValueError(f"there is no class {printable(unknown[0])!r}.{known}")
        numbers = [names[label] if isinstance(label, str) else label for label in labels]
        every = range(self.num_classes)
        if strange := [n for n in numbers if isinstance(n, bool | float) or n not in every]:
            raise ValueError(f"there is no class {strange[0]}: labels must be of the classes 0..{every[-1]}")
        return torch.as_tensor([int(number) for number in numbers], device=self.device)

    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | list[int] | None = None,
        output_type: OutputType = "pil",
        *,
        labels: Sequence[int | str] | int | None = None,
        guidance_scale: float | None = None,
        noise: Tensor | None = None,
        latents: Sequence[Tensor] | None = None,
        progress: bool | None = None,
    ) -> PipelineOutput:
        """Sample a batch, as diffusers' unconditional pipelines do.

        Args:
            batch_size: how many images.
            generator: one for each image, or one that seeds them all; None uses torch's own.
            num_inference_steps: steps, or a list of the steps in each of as many sections of a chain; None
                keeps those of the pipeline's sampler.
            output_type: "pil", "np" (n, H, W, C) or "pt" (n, C, H, W), the last two in [0, 1].
            labels: the class of each image or of all, by number or name, for a conditional model; None takes
                the classes in turn.
            guidance_scale: of classifier-free guidance; None keeps the pipeline's guidance, if any.
            noise: (batch_size, *sample_shape), replaces the x that the start draws.
            latents: replace what the denoiser would draw: one tensor per network call.
            progress: whether a bar is shown; None shows one in a notebook.

        Raises:
            ValueError: if an argument has the wrong shape, length or value.
            RecipeError: if the sampler or the guidance refuses its options.
        """
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type must be one of {get_args(OutputType)}, not {output_type!r}")
        pipeline = self
        if num_inference_steps is not None:
            pipeline = pipeline.with_sampler(num_inference_steps=num_inference_steps)
        if guidance_scale is not None:
            pipeline = pipeline.with_guidance("cfg", scale=guidance_scale)
        if isinstance(generator, torch.Generator) or generator is None:
            # Image i still depends on one seed + i, so that a larger batch begins with the same images.
            device = "cpu" if generator is None else generator.device
            seed = int(torch.randint(2**62, (), generator=generator, device=device))
            generator = generators_for(seed, 0, batch_size, self.device)
        label = self._turns(0, batch_size) if labels is None else self._each(labels, batch_size)
        shown = console.is_jupyter if progress is None else progress
        with sampling_display(batch_size, pipeline.calls) if shown else nullcontext() as bar:
            images = pipeline.draw(
                generator, batch_size, label=label, noise=noise, latents=latents,
                progress=None if bar is None else partial(bar, 0, batch_size),
            )  # fmt: skip
        return PipelineOutput(convert(images, output_type, self.pictures))


def _same_encoder(one: Encoder | None, other: Encoder | None) -> bool:
    """Whether two models work on the same latents, or both on images."""
    if one is None or other is None:
        return one is other
    return digest(one.state_dict()) == digest(other.state_dict())


@contextmanager
def _enough_memory(shape: tuple[int, ...]) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not out_of_memory(error):
            raise
        text = f"{shape[0]} samples of shape {shape[1:]} at once need more memory than there is"
        raise SamplingError(f"{text}: draw smaller batches") from error
