"""Builds the objects that a recipe describes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from toolkit.data.source import DataSource
from toolkit.devices.networks import Compile, compile_network, recompute_activations
from toolkit.devices.placement import Placement, Replicated
from toolkit.devices.processes import settled_precision
from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.guidance import Guidance
from toolkit.diffusion.sampler import Sampler
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.diffusion.start import Start
from toolkit.errors import RecipeError
from toolkit.pipeline.folder import Weights, read_weights
from toolkit.pipeline.from_run import refuse_misfit
from toolkit.randomness import position_seed
from toolkit.recipe import Recipe
from toolkit.training.ema import EMA, EMAOptions, PowerFunction
from toolkit.training.objective import Objective
from toolkit.training.optimizers import OptimizerOptions
from toolkit.training.trainer import Training


def _model(name: str) -> str:
    """A folder's absolute path, which stays right when the working directory changes; a Hub id as it is."""
    path = Path(name).expanduser()
    on_hub = name.count("/") == 1 and name[0] not in "./~" and not path.exists()
    return name if on_hub else str(path.absolute())


Model = Annotated[str, Field(min_length=1), AfterValidator(_model)]


@dataclass(frozen=True)
class NetworkOptions:
    """Options of every network, whatever its type.

    Args:
        from_run: a run or pipeline folder whose network this is: its architecture and its weights.
        init_from: weights to start from, instead of random ones: whatever `toolkit sample` opens (a run, a
            pipeline, a checkpoint, a folder of diffusers' or a Hub id), or a network folder.
        init_weights: the averaged or the raw ones, where there are both; by default the averaged ones.
        compile: torch.compile the network: true, "max-autotune", which tries more kernels for minutes, or
            "cudagraphs", which replays its kernels without the host; refused where a turn differentiates it
            twice. The first steps then take a minute or more.
        checkpoint_activations: keep only the inputs of the network's blocks, and compute the rest again in
            backward: a fraction of the memory, the same bits, a third more time.
        channels_last: keep convolution weights in channels-last memory order, in which GPUs convolve; "auto"
            does so for a compiled network on a GPU. The run folder's recipe states which.
    """

    from_run: Path | None = None
    init_from: Model | None = None
    init_weights: Weights | None = None
    compile: Compile = False
    checkpoint_activations: bool = False
    channels_last: bool | Literal["auto"] = "auto"


@dataclass(frozen=True)
class EncoderOptions:
    """Options of every encoder, whatever its type.

    Args:
        cache: encode all examples once, before training, and keep their latents in memory.
    """

    cache: bool = False


@dataclass(frozen=True)
class Built:
    """Everything that a recipe describes; networks are on the device given to `build`."""

    recipe: Recipe
    source: DataSource
    supplied: Mapping[str, Any]  # what constructors may ask for by name: schedule, shapes, classes
    schedule: NoiseSchedule | None
    sampler: Sampler | None
    start: Start | None
    guidance: Guidance | None
    encoder: Encoder | None
    training: Training

    @property
    def cache(self) -> bool:
        """Whether the latents of all examples are kept in memory."""
        return self.encoder is not None and bool(self.recipe.common(("encoder",)).cache)

    @property
    def encode(self) -> Callable[[Tensor], Tensor] | None:
        """What makes of images the batches that networks see; None where they see the images."""
        return None if self.encoder is None else self.encoder.encode


def build(recipe: Recipe, device: torch.device, placement: Placement | None = None) -> Built:
    """Build all components of a recipe, after checking that its roles fit its objective.

    A network's initial weights are a function of (seed, role).

    Args:
        recipe: resolved.
        device: of this process.
        placement: of the networks; by default each is whole, on the device.

    Raises:
        RecipeError: if a role is missing, unknown or of another interface, an option is refused, or the
            objective refuses how its network would be sampled.
    """
    recipe, placement = settled(recipe, device), placement or Replicated(device)
    source: DataSource = recipe.create(("data",), {})
    encoder: Encoder | None = None
    sample_shape = tuple(source.image_shape)
    if "encoder" in recipe.tables:
        encoder = recipe.create(("encoder",), {}).eval().requires_grad_(False).to(device)
        try:
            sample_shape = encoder.latent_shape(source.image_shape)
        except ValueError as error:
            raise RecipeError(f"{recipe.where(('encoder',))} {error}") from None
    supplied: dict[str, Any] = {
        "sample_shape": sample_shape,
        "num_classes": source.num_classes,
        "schedule": None,
        "run_steps": recipe.common(("run",)).last_step,
    }

    def create(*path: str, **more: object) -> Any:
        return recipe.create(path, {**supplied, **more})

    if "schedule" in recipe.tables:
        supplied["schedule"] = create("schedule")
    objective: Objective = create("objective")
    trained = check_roles(recipe, objective)

    seed = int(recipe.tables["run"]["seed"])
    networks: dict[str, nn.Module] = {}
    for role, interface in objective.roles.items():
        torch.manual_seed(position_seed(seed, "network", role))
        network = placement.built(partial(create, "networks", role))
        if not isinstance(network, interface):
            where, kind = recipe.where(("networks", role)), type(network).__name__
            raise RecipeError(f"{where} is a {kind}, but the objective wants a {interface.__name__} here.")
        networks[role] = network
    refuse_shared_parameters(recipe, networks)
    options: dict[str, NetworkOptions] = {role: recipe.common(("networks", role)) for role in networks}
    if placement.sharded:
        objective.refuse_sharding()
    for role, network in networks.items():
        if placement.sharded:
            refuse_sharding(recipe, role, options[role])
        placement.loaded(partial(start_from, recipe, role, network, options[role], supplied, encoder))
        if options[role].channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        networks[role] = placement.placed(network)

    optimizers = {}
    for role in trained:
        params = [p for p in networks[role].parameters() if p.requires_grad]
        if not params:
            raise RecipeError(
                f"{recipe.where(('networks', role))} has nothing to train, all of it is frozen."
            )
        optimizers[role] = create("optimizers", role, params=params)
    optimizer_options: dict[str, OptimizerOptions] = {
        role: recipe.common(("optimizers", role), supplied) for role in trained
    }
    averages: dict[str, EMA] = {}
    widths: dict[str, dict[float, EMA]] = {}
    for role in recipe.tables.get("ema", {}):
        ema: EMAOptions = create("ema", role)
        average = partial(EMA, networks[role], placement=placement)
        widths[role] = {width: average(PowerFunction(width)) for width in ema.widths}
        averages[role] = widths[role][ema.widths[0]] if ema.decay is None else average(ema)
    for role, network in networks.items():
        if options[role].checkpoint_activations:  # after its averages: copies would compute with its blocks
            try:
                recompute_activations(network)
            except ValueError as error:
                where = recipe.where(("networks", role, "checkpoint_activations"))
                raise RecipeError(f"{where} checkpoint_activations = true: the network {error}.") from None
        if options[role].compile:
            refuse_compiling(recipe, objective, role)
            compile_network(network, options[role].compile)
    training = Training(
        objective.to(device), networks, optimizers, optimizer_options, averages, widths=widths,
        placement=placement,
    )  # fmt: skip

    sampler = start = guidance = None
    if supplied["schedule"] is not None:
        sampler, start = create("sampler"), create("start")
        objective.refuse_sampling(sampler, start)
        guidance = create("guidance") if "guidance" in recipe.tables else None
    return Built(recipe, source, supplied, supplied["schedule"], sampler, start, guidance, encoder, training)


def settled(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with what suits `device` in place of each "auto" that concerns it."""
    precision = recipe.tables["run"]["precision"]
    recipe = recipe.with_value(("run", "precision"), settled_precision(precision, device))
    whole = recipe.tables["run"]["sharding"] is None
    for role, table in recipe.tables["networks"].items():
        if table["channels_last"] == "auto":
            # Uncompiled, normalisation goes back and forth between memory orders: 19 % slower on an H200.
            wanted = device.type == "cuda" and table["compile"] and whole
            recipe = recipe.with_value(("networks", role, "channels_last"), wanted)
    return recipe


def check_roles(recipe: Recipe, objective: Objective) -> list[str]:
    """The roles that turns train, after checking [networks], [optimizers] and [ema] against the objective."""
    trained = list(dict.fromkeys(role for turn in objective.turns() for role in turn.trains))
    name = recipe.tables["objective"]["type"]
    _compare(recipe, "networks", objective.roles, f"objective {name!r} has", required=True)
    _compare(recipe, "optimizers", trained, f"objective {name!r} trains", required=True)
    _compare(recipe, "ema", trained, f"objective {name!r} trains", required=False)
    return trained


def _compare(recipe: Recipe, section: str, roles: Iterable[str], whose: str, *, required: bool) -> None:
    given, wanted = list(recipe.tables.get(section, {})), list(roles)
    listed = ", ".join(map(repr, wanted))
    for role in given:
        if role not in wanted:
            raise RecipeError(
                f"{recipe.where((section, role))} there is no role {role!r}: {whose} {listed}. "
                f'If it comes from a parent recipe, write unset = ["{section}.{role}"].'
            )
    for role in wanted:
        if required and role not in given:
            where = recipe.where((section,))
            raise RecipeError(f"{where} {whose} {role!r}, but there is no [{section}.{role}].")


def refuse_shared_parameters(recipe: Recipe, networks: Mapping[str, nn.Module]) -> None:
    """Refuse two roles that share a parameter: each has an optimizer, and freezing one would freeze both."""
    owner: dict[nn.Parameter, str] = {}
    for role, network in networks.items():
        for name, parameter in network.named_parameters():
            if owner.setdefault(parameter, role) != role:
                where = recipe.where(("networks", role))
                raise RecipeError(f"{where} shares its parameter {name!r} with role {owner[parameter]!r}.")


def refuse_compiling(recipe: Recipe, objective: Objective, role: str) -> None:
    """Refuse to compile what is differentiated twice: torch.compile fails on it only in the backward pass."""
    for turn in objective.turns():
        if role in turn.second_order:
            raise RecipeError(
                f"{recipe.where(('networks', role))} compile is not possible: turn {turn.name!r} "
                "differentiates twice (R1, gradient penalty), which torch.compile cannot do."
            )


def refuse_sharding(recipe: Recipe, role: str, options: NetworkOptions) -> None:
    """Refuse what a network in parts cannot have."""
    for option, why in (
        ("channels_last", "FSDP cuts weights in their plain memory order"),
        ("compile", "it has not been tried on networks in parts"),
    ):
        if getattr(options, option):
            raise RecipeError(
                f"{recipe.where(('networks', role))} {option} = true does not go with run.sharding: {why}."
            )


def start_from(
    recipe: Recipe,
    role: str,
    network: nn.Module,
    options: NetworkOptions,
    supplied: Mapping[str, Any],
    encoder: Encoder | None,
) -> None:
    """Load the weights that `from_run` or `init_from` names into `network`.

    Raises:
        RecipeError: if there are none, if they are of another architecture, or if `from_run` names a network
            of another schedule or other data.
    """
    for option in ("from_run", "init_from"):
        source = getattr(options, option)
        if source is None:
            continue
        where = f"{recipe.where(('networks', role, option))} {option}: "
        if option == "from_run":
            try:
                refuse_misfit(source, supplied, recipe.tables.get("schedule"), encoder)
            except RecipeError as error:
                raise RecipeError(f"{where}{error}") from None

        def refuse(text: str, at: str = where) -> RecipeError:
            return RecipeError(f"{at}{text}")

        chosen = options.init_weights if option == "init_from" else None
        read_weights(source, network, recipe.registry, refuse, role, chosen)
