"""What pipeline.json and network.json must say, and the facts that they may."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, PositiveInt, ValidationError

from toolkit.description import Description
from toolkit.errors import CheckpointError, PluginError
from toolkit.files import read_json
from toolkit.plugins import Plugins

FORMAT = 1


class StatedNetwork(BaseModel):
    """A network, and the plugins that it needs."""

    format: Literal[1]
    plugins: dict[str, str]
    sample_shape: tuple[PositiveInt, ...]
    num_classes: PositiveInt | None
    network: dict[str, Any]
    role: str = ""
    weights: str = ""
    steps: int | None = None
    recipe: str = ""

    def description(self, *kinds: str) -> Description:
        about = self.model_dump(include={"role", "weights", "steps", "recipe"}, exclude_unset=True)
        tables = {kind: getattr(self, kind) for kind in kinds}
        return Description(tables, self.sample_shape, self.num_classes, about)


class StatedPipeline(StatedNetwork):
    """And how it is sampled."""

    schedule: dict[str, Any]
    sampler: dict[str, Any]
    initialiser: dict[str, Any]


S = TypeVar("S", bound=StatedNetwork)


def read_stated(path: Path, what: type[S], plugins: Plugins) -> S:
    """Read such a file.

    Raises:
        CheckpointError: if it is no JSON, or not what this version writes.
        PluginError: naming a plugin that is missing.
    """
    try:
        stated = what.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise CheckpointError(f"{path}: is damaged, or of another version: {where}: {first['msg']}") from None
    working = {report.name for report in plugins.reports if report.error is None}
    off = {owner.name for owner in plugins.switched_off}
    for name, source in stated.plugins.items():
        if name in off:
            raise PluginError(f"{path.parent}: needs plugin {name!r} of {source}, which is switched off.")
        if name not in working:
            raise PluginError(
                f"{path.parent}: needs plugin {name!r} of {source}, which is not installed, or broken "
                "(toolkit plugins tells)."
            )
    return stated
