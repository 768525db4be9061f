"""A trained model that samples: `Pipeline.from_pretrained(folder)`, `pipeline(batch_size=16).images`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, get_args

import torch
from torch import Tensor

from toolkit.diffusion.denoiser import Denoiser, device_of
from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.guidance import Guidance
from toolkit.diffusion.sampler import Sampler, count_calls, walk
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.diffusion.start import Clean, Sampled, Saveable, Start
from toolkit.errors import CheckpointError, RecipeError, nearest, printable
from toolkit.files import digest
from toolkit.pipeline.folder import (
    COMMON,
    PARTS,
    README,
    Saved,
    fill,
    plugins_of,
    read_pipeline,
    read_weights,
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
        images: PIL images; or an array (n, H, W, C) or tensor (n, C, H, W), float32 in [0, 1]. Data that is
            not pictures, e.g. points (n, 2), comes as it is.
    """

    images: Any


class Pipeline:
    """A denoiser, its noise schedule, a sampler and a start, with diffusers' calling conventions.

    Attributes:
        saved: what it is made of, as its folder says it.
        times: at which its network is called, descending, the path's `clean` the last.
        readme: the README.md of the folder that it was loaded from; saved along.
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
        try:
            grid = sampler.grid(schedule, table.get("num_inference_steps"), table.get("spacing"))
        except ValueError as error:
            raise RecipeError(f"[sampler] {error}") from None
        try:
            if guidance is not None:
                guidance.refuse(denoiser)
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
        """Build all parts by the registry; the denoiser has fresh weights and is frozen.

        Raises:
            PluginError: if a component is of no installed plugin.
            RecipeError: if a component refuses its options.
        """
        schedule = saved.build("schedule", registry, saved.supplied(), where)
        supplied = saved.supplied(schedule)
        # Frozen, as a run's average is: kernels may round otherwise for weights that want a gradient.
        denoiser = saved.build("network", registry, supplied, where).eval().requires_grad_(False)
        sampler, start = (saved.build(name, registry, supplied, where) for name in ("sampler", "start"))
        guidance = saved.build("guidance", registry, supplied, where) if saved.guidance else None
        encoder = saved.build("encoder", registry, supplied, where) if saved.encoder else None
        return cls(denoiser, schedule, sampler, start, saved, registry, guidance, encoder)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Load a pipeline folder, a run folder, a foreign diffusers folder, or any of them from the Hub.

        Classes are looked up among installed, registered components; nothing in the folder is executed.

        Args:
            path: a folder, or a hub id such as "google/ddpm-cifar10-32".

        Returns:
            A pipeline on the CPU.

        Raises:
            CheckpointError: if there is no pipeline, or it is damaged.
            PluginError: naming the plugin that is missing.
        """
        plugins = load()
        saved, folder, state = read_pipeline(path, plugins)
        ours = folder / "pipeline.json"
        pipeline = cls.from_saved(saved, plugins.registry, ours if state is None else folder)
        if state is None:
            read_weights(folder, pipeline.denoiser, plugins.registry, CheckpointError)
        else:
            fill(pipeline.denoiser, state, folder, CheckpointError)
        if state is None and (folder / README).is_file():
            pipeline.readme = (folder / README).read_text(encoding="utf-8", errors="replace")
        return pipeline

    def save_pretrained(self, path: str | Path, *, run: Path | None = None) -> None:
        """Write a pipeline folder; an earlier one at that place is replaced as a whole.

        Plugins are told of it (`toolkit_pipeline_saved`).

        Args:
            path: the folder.
            run: the run folder that it is the result of.

        Raises:
            RunError: if the folder holds other files, or cannot be written.
        """
        inner: dict[str, Mapping[str, Saveable]] = dict(self._inner)
        if self.encoder is not None:
            inner["encoder"] = self.encoder.folders()
        parts = (self.saved, self.denoiser, self.sampler, self.start, inner)
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
        """The shape of one sample as it is given out, e.g. (3, 32, 32)."""
        return self.saved.image_shape or self.saved.sample_shape

    @property
    def identity(self) -> str:
        """A hash of all that samples depend on, the seed aside: weights, their meaning, how they are sampled.

        A pipeline in it, that its start samples for example, counts by its own identity, wherever it lies.
        """
        names = [name for name in self.saved.tables if name != "encoder"]
        encoder = {} if self.encoder is None else self.encoder.state_dict()
        return digest({name: self.table(name) for name in names}, self.denoiser.state_dict(), encoder)

    def table(self, part: str) -> dict[str, object] | None:
        """The table of "sampler", "start" or another part, with identities of pipelines instead of folders."""
        inner = {name: pipeline.identity for name, pipeline in self._inner.get(part, {}).items()}
        table = self.saved.tables.get(part)
        return None if table is None else {**table, **inner}

    @property
    def plugins(self) -> list[object]:
        """The plugins, with versions, of its components; then those of each pipeline in it."""
        pipelines = [pipeline for several in self._inner.values() for pipeline in several.values()]
        own = plugins_of(self.saved.tables, self.registry)
        return [own, *(pipeline.plugins for pipeline in pipelines)]

    @property
    def _inner(self) -> dict[str, Mapping[str, Sampled]]:
        """The pipelines that parts have, by part and option."""
        guiding = {} if self.guidance is None else {"guidance": self.guidance.pipelines()}
        return {"start": self.start.pipelines(), **guiding}

    @property
    def num_classes(self) -> int | None:
        """How many classes can be asked for; None for a model that is not conditional."""
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

    def with_sampler(self, type: str | None = None, **options: Any) -> "Pipeline":
        """The same weights under another sampler, or under the same with other options.

        Args:
            type: a registered sampler's name, e.g. "ddim"; None keeps the present one.
            options: of that sampler, e.g. num_inference_steps=50; others that both have keep their values.

        Raises:
            RecipeError: if there is no such sampler or option.
        """
        sampler, saved = self._other("sampler", type, options)
        return self._with(sampler=sampler, saved=saved)

    def with_start(self, type: str | None = None, **options: Any) -> "Pipeline":
        """The same weights from another start, or from the same with other options.

        Args:
            type: a registered start's name, e.g. "noise"; None keeps the present one and its options.
            options: of that start.

        Raises:
            RecipeError: if there is no such start or option, or it refuses them.
        """
        start, saved = self._other("start", type, options)
        return self._with(start=start, saved=saved)

    def with_guidance(self, type: str | None = None, **options: Any) -> "Pipeline":
        """The same weights under guidance, or under the same with other options.

        Args:
            type: a registered guidance's name, e.g. "cfg"; None keeps the present one and its options.
            options: of that guidance, e.g. scale=2.

        Raises:
            RecipeError: if there is no such guidance or option, or the network cannot be guided so.
        """
        if type is None and self.guidance is None:
            raise RecipeError("[guidance] this pipeline has none: name a type, such as cfg")
        guidance, saved = self._other("guidance", type, options)
        return self._with(guidance=guidance, saved=saved)

    def _with(self, **parts: Any) -> "Pipeline":
        own: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "denoiser",
                "schedule",
                "sampler",
                "start",
                "saved",
                "registry",
                "guidance",
                "encoder",
            )
        }
        return Pipeline(**{**own, **parts})

    def _other(self, name: str, chosen: str | None, options: Any) -> tuple[Any, Saved]:
        """Another part of that name, and what is saved of the pipeline with it."""
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
        """What its samples start from, for the same seeds: the x_0 of its start, before any network call."""
        return self._with(start=Clean(self.start))

    @cached_property
    def calls(self) -> int:
        """Network calls of one sample, guidance included, besides those that the start makes."""
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
            generators: one a sample, on the pipeline's device; None draws from torch's own.
            n: how many.
            label: (n,) int64, the classes to sample.
            noise: (n, *sample_shape), where to start instead of what the start draws.
            latents: what the denoiser would draw, one tensor a network call.
            progress: called with the number of network calls done.
        """
        self.denoiser.eval()  # it may be in training: then the trainer's next step undoes this
        shape, t = (n, *self.sample_shape), self.times[0] if self.times else self.schedule.clean
        if noise is not None and noise.shape != shape:
            raise ValueError(f"noise must be {shape}, as the samples are, not {tuple(noise.shape)}")
        with torch.inference_mode():
            x = self.start.draw(shape, generators, t, self.device) if noise is None else noise
            x = walk(
                self.sampler, self.denoiser, self.schedule, x, self.times,
                generators=generators, label=label, latents=latents, guidance=self.guidance,
                progress=progress,
            )  # fmt: skip
            x = self.decode(x)
            x = x.clamp(-1, 1) if len(self.image_shape) == 3 else x
        return x.clone()  # a network may be trained on it, which inference mode's own tensors refuse

    def encode(self, images: Tensor) -> Tensor:
        """What the network denoises, (n, *sample_shape) float32, of images (n, *image_shape) in [-1, 1]."""
        if self.encoder is None:
            return images
        with torch.inference_mode():
            return self.encoder.encode(images.to(self.device)).clone()

    def decode(self, x: Tensor) -> Tensor:
        """Images (n, *image_shape) float32, near [-1, 1], of what the network denoises (n, *sample_shape)."""
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
        labels: Sequence[int | str] | None = None,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> Iterator[Tensor]:
        """Samples first..first+num-1 in batches; sample i depends on seed + i alone, not on the batch.

        Args:
            num: how many samples.
            seed: of sample 0.
            first: number of the first one.
            batch_size: how many at once.
            labels: the class of each, by number or name; by default they take turns.
            progress: called with the first and the number of the images in work, and the network calls done
                for them.
        """
        chosen = None if labels is None else self._each(labels, num)
        for done in range(0, num, batch_size):
            n = min(batch_size, num - done)
            yield self.draw(
                generators_for(seed, first + done, n, self.device),
                n,
                label=self._turns(seed + first + done, n) if chosen is None else chosen[done : done + n],
                progress=None if progress is None else partial(progress, done, n),
            )

    def _turns(self, first: int, n: int) -> Tensor | None:
        """Labels that go through the classes in turn."""
        classes = self.saved.num_classes
        return None if classes is None else (first + torch.arange(n, device=self.device)) % classes

    def _each(self, labels: Sequence[int | str], n: int) -> Tensor:
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
        label = torch.as_tensor(numbers, device=self.device)
        if label.ndim != 1 or not bool(((label >= 0) & (label < self.num_classes)).all()):
            raise ValueError(f"labels must be of the classes 0..{self.num_classes - 1}")
        return label.long()

    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | list[int] | None = None,
        output_type: OutputType = "pil",
        *,
        labels: Sequence[int | str] | None = None,
        guidance_scale: float | None = None,
        noise: Tensor | None = None,
        latents: Sequence[Tensor] | None = None,
    ) -> PipelineOutput:
        """Sample a batch, as diffusers' unconditional pipelines do.

        Args:
            batch_size: how many images.
            generator: one for each image, or one that seeds them all; None uses torch's own.
            num_inference_steps: network calls, or a list of those in each of as many sections of the chain;
                None for as many as the pipeline's sampler states.
            output_type: "pil", "np" (n, H, W, C) or "pt" (n, C, H, W), the last two in [0, 1].
            labels: the class of each image, by number or name, for a conditional model; by default they take
                turns.
            guidance_scale: of classifier-free guidance; None for the guidance that the pipeline has, if any.
            noise: (batch_size, *sample_shape), the start of the chain instead of a drawn one.
            latents: what the denoiser would draw, one tensor a network call.
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
        images = pipeline.draw(
            generator,
            batch_size,
            label=label,
            noise=noise,
            latents=latents,
        )
        return PipelineOutput(convert(images, output_type))
