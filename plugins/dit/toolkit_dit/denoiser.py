"""The denoiser that a recipe names."""

from typing import Annotated, Literal, final

from pydantic import Field
from torch import Tensor

from toolkit import TARGETS, Denoiser, NoiseSchedule, Positive, Prediction, refuse_target


@final
class DiT(Denoiser):
    """A transformer over patches of an image or a latent, by adaLN-Zero (Peebles & Xie 2023).

    Its first output is exactly 0. The defaults are DiT-S/2: width num_attention_heads x attention_head_dim =
    384, 32 million parameters.

    Args:
        patch_size: the side of a patch, which is a token; divides both sides of the image.
        num_layers: blocks; S has 12, B 12, L 24, XL 28.
        num_attention_heads: of every block; S has 6, B 12, L 16, XL 16.
        attention_head_dim: channels of a head; 64, in XL 72.
        prediction: what the network computes.
        learned_variance: doubles the output channels; the second half v, as (v + 1) / 2, places the log
            variance between its bounds (Nichol & Dhariwal 2021).
        conditional: learn an embedding of the labels.
        null_class: also learn an embedding of "no class", for guidance; the objective's `label_dropout`
            trains it.
        flow_map: learn an embedding of t - s too, so that the answer is for the whole way from t to s.
        time_scale: the network gets time_scale x t, and sees sinusoids of it with frequencies from 1 down to
            1e-4; by default 1 on a chain, 1000 on a continuous path. Derivatives in time grow with it.
        dropout: after attention and within the perceptrons; the authors have none.

    Raises:
        ValueError: for data that is no images; if patches do not divide them; for a width that is no multiple
            of 4; for a conditional network without classes; for null_class without conditional.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        num_classes: int | None,
        patch_size: Positive = 2,
        num_layers: Positive = 12,
        num_attention_heads: Positive = 6,
        attention_head_dim: Positive = 64,
        prediction: Literal["epsilon", "sample", "v_prediction", "flow"] = "epsilon",
        learned_variance: bool = False,
        conditional: bool = False,
        null_class: bool = False,
        flow_map: bool = False,
        time_scale: Annotated[float, Field(gt=0)] | None = None,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        if len(sample_shape) != 3:
            raise ValueError(f"a DiT works on images (channels, height, width), not on {sample_shape}")
        channels, height, width = sample_shape
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size = {patch_size} must divide both sides of {height}x{width} images")
        if num_attention_heads * attention_head_dim % 4:
            raise ValueError(
                f"num_attention_heads x attention_head_dim = {num_attention_heads * attention_head_dim} must "
                "be a multiple of 4, for the sinusoids of two coordinates"
            )
        if conditional and num_classes is None:
            raise ValueError("conditional = true needs labelled data")
        if null_class and not conditional:
            raise ValueError("null_class = true is for a network with conditional = true")
        self._target = TARGETS[prediction]
        refuse_target(schedule, self._target)
        from toolkit_dit.transformer import Transformer

        self.model = Transformer(
            (channels, height, width),
            channels * (2 if learned_variance else 1),
            patch_size,
            num_layers,
            num_attention_heads,
            attention_head_dim,
            classes=(num_classes or 0) + null_class if conditional else 0,
            second_time=flow_map,
            dropout=dropout,
        )
        self._schedule, self._learned_variance = schedule, learned_variance
        self.conditional, self.null_class, self.flow_map = conditional, null_class, flow_map
        self._time_scale = time_scale or (1.0 if schedule.discrete else 1000.0)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        way = (t - (t if s is None else s)) * self._time_scale if self.flow_map else None
        out = self.model(x_t, t * self._time_scale, way, label)
        return Prediction.from_output(self._schedule, x_t, t, out, self._target, self._learned_variance)
