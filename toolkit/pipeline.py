"""A trained model that samples: `Pipeline.from_pretrained(folder)`, `pipeline(batch_size=16).images`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

import torch
from torch import Tensor

from toolkit.denoiser import Denoiser, device_of
from toolkit.description import Description
from toolkit.errors import RecipeError
from toolkit.grid import OutputType, convert
from toolkit.initialiser import Clean, Initialiser
from toolkit.randomness import generators_for
from toolkit.registry import Registry, bracketed
from toolkit.sampler import Sampler, below
from toolkit.schedule import NoiseSchedule


@dataclass(frozen=True)
class PipelineOutput:
    """`images`: PIL images; or an array (n, H, W, C) or tensor (n, C, H, W) in [0, 1]. Data that is not
    pictures, e.g. points (n, 2), comes as it is."""

    images: Any


class Pipeline:
    """A denoiser, its noise schedule, a sampler and an initialiser, with diffusers' calling conventions."""

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        sampler: Sampler,
        initialiser: Initialiser,
        description: Description,
        registry: Registry,
    ) -> None:
        if not denoiser.respaceable and not torch.equal(sampler.timesteps, schedule.timesteps):
            raise RecipeError(
                f"[sampler] takes {len(sampler.timesteps)} steps, but this network was trained for the "
                f"{len(schedule.timesteps)} steps of its schedule, and for no others"
            )
        self.denoiser, self.schedule = denoiser, schedule
        self.sampler, self.initialiser = sampler, initialiser
        self.description, self._registry = description, registry
        self.card: str | None = None  # the README.md of the folder that it was loaded from

    @classmethod
    def from_description(cls, description: Description, registry: Registry, where: str) -> Self:
        """Build all parts by the registry; the denoiser has fresh weights and is frozen.

        Raises:
            PluginError: if a component is of no installed plugin.
            RecipeError: if a component refuses its options.
        """
        supplied = description.supplied()

        def create(kind: type, table: str) -> Any:
            def located(path: tuple[str, ...]) -> str:
                return f"{where}: [{'.'.join((table, *path))}]"

            return registry.create(kind, description.tables[table], supplied=supplied, where=located)

        supplied["schedule"] = create(NoiseSchedule, "schedule")
        # Frozen, as a run's average is: kernels may round otherwise for weights that want a gradient.
        denoiser = create(torch.nn.Module, "network").eval().requires_grad_(False)
        sampler, initialiser = create(Sampler, "sampler"), create(Initialiser, "initialiser")
        return cls(denoiser, supplied["schedule"], sampler, initialiser, description, registry)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "Pipeline":
        """Load a pipeline folder, a run folder, a foreign diffusers folder, or any of them from the Hub.

        Classes are looked up among installed, registered components; nothing in the folder is executed.

        Args:
            path: a folder, or a hub id such as "google/ddpm-cifar10-32".

        Raises:
            CheckpointError: if there is no pipeline, or it is damaged.
            PluginError: naming the plugin that is missing.
        """
        from toolkit.pipeline_folder import load_pipeline

        return load_pipeline(path)

    def save_pretrained(self, path: str | Path) -> None:
        """Write a pipeline folder; an earlier one at that place is replaced as a whole."""
        from toolkit.pipeline_folder import save_pipeline

        save_pipeline(self, Path(path), self._registry)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload the pipeline folder to the Hugging Face Hub; returns its address."""
        from toolkit.pipeline_folder import push_pipeline

        return push_pipeline(self, repo_id, self._registry, private=private)

    def __repr__(self) -> str:
        tables, about = self.description.tables, self.description.about
        shape = "x".join(map(str, self.description.sample_shape))
        parts = f"{tables['network']['type']} of {shape}, {tables['sampler']['type']} sampler"
        made = [f"{key} {about[key]}" for key in ("recipe", "steps", "weights") if key in about]
        return f"Pipeline({', '.join([parts, f'{self.calls} network calls', *made])})"

    @property
    def num_classes(self) -> int | None:
        """How many classes can be asked for; None for a model that is not conditional."""
        return self.description.num_classes if self.denoiser.conditional else None

    @property
    def device(self) -> torch.device:
        return device_of(self.denoiser)

    def to(self, device: str | torch.device) -> Self:
        self.denoiser.to(device)
        return self

    def with_sampler(self, type: str | None = None, **options: Any) -> "Pipeline":
        """The same weights under another sampler, or under the same with other options.

        Args:
            type: a registered sampler's name, e.g. "ddim"; None keeps the present one.
            options: of that sampler, e.g. num_inference_steps=50; others that both have keep their values.

        Raises:
            RecipeError: if there is no such sampler or option.
        """
        sampler, described = self._other(Sampler, "sampler", type, options)
        return Pipeline(self.denoiser, self.schedule, sampler, self.initialiser, described, self._registry)

    def with_initialiser(self, type: str | None = None, **options: Any) -> "Pipeline":
        """The same weights from another start, or from the same with other options.

        Args:
            type: a registered initialiser's name, e.g. "noise"; None keeps the present one and its options.
            options: of that initialiser.

        Raises:
            RecipeError: if there is no such initialiser or option, or it refuses them.
        """
        initialiser, described = self._other(Initialiser, "initialiser", type, options)
        return Pipeline(self.denoiser, self.schedule, self.sampler, initialiser, described, self._registry)

    def _other(self, kind: type, name: str, chosen: str | None, options: Any) -> tuple[Any, Description]:
        """Another part of that kind, and the description with it."""
        present = self.description.tables[name]
        another = chosen not in (None, present["type"])
        component = self._registry.components(kind).get(str(chosen)) if another else None
        shared = {o.name for o in component.options} & present.keys() if component else set()
        base = {"type": chosen, **{option: present[option] for option in shared}} if another else present

        def located(path: tuple[str, ...]) -> str:
            return bracketed((name, *path))

        table = self._registry.resolve(kind, {**base, **options}, located)
        supplied = self.description.supplied(self.schedule)
        part = self._registry.create(kind, table, supplied=supplied, where=located)
        return part, replace(self.description, tables={**self.description.tables, name: table})

    def without_refining(self) -> "Pipeline":
        """What its samples start from, for the same seeds: the initialiser's x_0, before any network call."""
        clean = Clean(self.initialiser)
        return Pipeline(self.denoiser, self.schedule, self.sampler, clean, self.description, self._registry)

    @property
    def calls(self) -> int:
        """Network calls of one sample, besides those that the initialiser makes."""
        return len(below(self.sampler.timesteps, self.initialiser.start))

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
        """n samples (n, *sample_shape); pictures are clamped to [-1, 1].

        Args:
            generators: one a sample, on the pipeline's device; None draws from torch's own.
            n: how many.
            label: (n,) int64, the classes to sample.
            noise: (n, *sample_shape), where to start instead of what the initialiser draws.
            latents: what the denoiser would draw, one tensor a network call.
            progress: is told how many network calls are done.
        """
        self.denoiser.eval()  # it may be in training: then the trainer's next step undoes this
        start, shape = self.initialiser.start, (n, *self.description.sample_shape)
        timestep = next(iter(below(self.sampler.timesteps, start)), -1)
        if noise is not None and noise.shape != shape:
            raise ValueError(f"noise must be {shape}, as the samples are, not {tuple(noise.shape)}")
        with torch.inference_mode():
            x = self.initialiser.draw(shape, generators, timestep, self.device) if noise is None else noise
            x = self.sampler.sample(
                self.denoiser,
                x,
                start,
                generators=generators,
                label=label,
                latents=latents,
                progress=progress,
            )
            x = x.clamp(-1, 1) if len(shape) == 4 else x
        return x.clone()  # a network may be trained on it, which inference mode's own tensors refuse

    def sample(
        self,
        num: int,
        *,
        seed: int = 0,
        first: int = 0,
        batch_size: int = 64,
        labels: Sequence[int] | None = None,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> Iterator[Tensor]:
        """Samples first..first+num-1 in batches; sample i depends on seed + i alone, not on the batch.

        Args:
            num: how many samples.
            seed: of sample 0.
            first: number of the first one.
            batch_size: how many at once.
            labels: the class of each; by default they take turns.
            progress: is told the first and the number of the images in work, and the network calls done
                for them.
        """
        stated = None if labels is None else self._stated(labels, num)
        for done in range(0, num, batch_size):
            n = min(batch_size, num - done)
            yield self.draw(
                generators_for(seed, first + done, n, self.device),
                n,
                label=self._turns(seed + first + done, n) if stated is None else stated[done : done + n],
                progress=None if progress is None else partial(progress, done, n),
            )

    def _turns(self, first: int, n: int) -> Tensor | None:
        """Labels that go through the classes in turn."""
        classes = self.description.num_classes
        return None if classes is None else (first + torch.arange(n, device=self.device)) % classes

    def _stated(self, labels: Sequence[int], n: int) -> Tensor:
        label = torch.as_tensor(labels, device=self.device)
        if self.num_classes is None:
            raise ValueError("labels are for a conditional model, which this is not")
        if label.shape != (n,) or not bool(((label >= 0) & (label < self.num_classes)).all()):
            raise ValueError(f"labels must be {n} of the classes 0..{self.num_classes - 1}")
        return label.long()

    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | list[int] | None = None,
        output_type: OutputType = "pil",
        *,
        labels: Sequence[int] | None = None,
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
            labels: the class of each image, for a conditional model; by default they take turns.
            noise: (batch_size, *sample_shape), the start of the chain instead of a drawn one.
            latents: what the denoiser would draw, one tensor a network call.
        """
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type must be one of {get_args(OutputType)}, not {output_type!r}")
        pipeline = self
        if num_inference_steps is not None:
            pipeline = self.with_sampler(num_inference_steps=num_inference_steps)
        if isinstance(generator, torch.Generator) or generator is None:
            # Image i still depends on one seed + i, so that a larger batch begins with the same images.
            device = "cpu" if generator is None else generator.device
            seed = int(torch.randint(2**62, (), generator=generator, device=device))
            generator = generators_for(seed, 0, batch_size, self.device)
        label = self._turns(0, batch_size) if labels is None else self._stated(labels, batch_size)
        images = pipeline.draw(
            generator,
            batch_size,
            label=label,
            noise=noise,
            latents=latents,
        )
        return PipelineOutput(convert(images, output_type))
