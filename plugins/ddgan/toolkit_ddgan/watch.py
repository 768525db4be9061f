"""Says so when a discriminator has won, which in the losses alone is easily overlooked."""

import logging
import tomllib
from pathlib import Path
from typing import final

from toolkit import hookimpl

CERTAIN = 3.0  # a logit whose probability is 0.95
PATIENCE = 20  # records in a row: GANs recover from less

logger = logging.getLogger(__name__)


@final
class Watch:
    """Follows the mean logits of one run after the other; changes nothing."""

    def __init__(self) -> None:
        self._watching, self._records = False, 0

    @hookimpl
    def toolkit_run_started(self, run: Path) -> None:
        recipe = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
        self._watching, self._records = recipe["objective"]["type"] == "ddgan", 0

    @hookimpl
    def toolkit_step_done(self, step: int, logs: dict[str, float]) -> None:
        if not self._watching:
            return
        real, fake = logs["discriminator/real"], logs["discriminator/fake"]
        self._records = self._records + 1 if min(real, -fake) > CERTAIN else 0
        if self._records == PATIENCE:
            logger.warning(
                "step %d: the discriminator has won. In the last %d records it was certain of what is real "
                "(mean logit %.1f) and what is not (%.1f), which leaves the generator little to learn from. "
                "Try a larger objective.r1_gamma, a smaller r1_every, or a lower learning rate for it.",
                step, PATIENCE, real, fake,
            )  # fmt: skip

    @hookimpl
    def toolkit_run_ended(self) -> None:
        self._watching = False
