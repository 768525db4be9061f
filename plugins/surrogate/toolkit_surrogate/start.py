"""The start of surrogate diffusion: noise over what another model, or a data set, gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Chain, CheckpointError, DataSource, Pipeline, Start, load, randn
from toolkit_surrogate.images import Examples, Images, Samples, fit, refuse_misfit


@final
class Surrogate(Start):
    """Starts at x_t ~ q(x_t | x_0), where x_0 is a sample of a surrogate (thesis, algorithm 4).

        x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise,   t the largest kept index below t_mid

    For each row the surrogate draws first, and the noise is drawn after it.

    Args:
        t_mid: how many steps of the original chain are left to refine in, 0..T; 0 gives the surrogate's
            samples as they are.
        surrogate: a run folder or pipeline folder, whose model samples as it was saved to.
        data: examples to start from instead.
        handover: "full" takes the surrogate's samples. "shared" runs only the steps of its chain, of the same
            T, that lie above t_mid, and takes its estimate of x_0 at the last of them.

    Raises:
        ValueError: if t_mid is beyond T, unless exactly one of `surrogate` and `data` is given, if there is
            no model in the folder, if its samples cannot be brought to the shape of the refined ones, or if
            the surrogate shares no step.
    """

    def __init__(
        self,
        schedule: Chain,
        sample_shape: tuple[int, ...],
        t_mid: Annotated[int, Field(ge=0)],
        surrogate: Path | None = None,
        data: DataSource | None = None,
        handover: Literal["full", "shared"] = "full",
    ) -> None:
        total = schedule.num_train_timesteps
        if t_mid > total:
            raise ValueError(f"t_mid must be from 0 to {total}, the length of the chain, not {t_mid}")
        if (surrogate is None) == (data is None):
            raise ValueError("needs one of surrogate, a folder, and data, a table with a type")
        self._pipeline = None if surrogate is None else read(surrogate)
        if handover == "shared":
            chain = self._pipeline and self._pipeline.schedule
            if not isinstance(chain, Chain) or chain.num_train_timesteps != total:
                raise ValueError(f'handover = "shared" needs a surrogate with a chain of T = {total} too')
        if self._pipeline is not None:
            self._images: Images = Samples(self._pipeline, t_mid if handover == "shared" else 0)
        else:
            assert data is not None
            self._images = Examples(data)
        refuse_misfit(self._images.shape, tuple(sample_shape))
        self._schedule, self.time, self.calls = schedule, t_mid - 1, self._images.calls

    def draw(
        self,
        shape: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        t: float,
        device: torch.device,
    ) -> Tensor:
        x0 = fit(self._images.draw(shape[0], generators, device), shape[1:])
        if t < 0:
            return x0
        noise = randn(shape, generators, device)
        return self._schedule.diffuse(x0, t, noise)

    def pipelines(self) -> Mapping[str, Pipeline]:
        return {} if self._pipeline is None else {"surrogate": self._pipeline}


def read(folder: Path) -> Pipeline:
    """The pipeline in a folder.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    try:
        return load(folder)
    except CheckpointError as error:
        raise ValueError(f"surrogate: {error}") from None
