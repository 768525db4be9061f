"""The transformer, of diffusers' parts. A module of its own, since importing diffusers takes seconds."""

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_2d_sincos_pos_embed
from diffusers.models.normalization import AdaLayerNormZero
from torch import Tensor, nn

FREQUENCIES = 256  # sinusoids of a time, as in diffusers' DiTTransformer2DModel


class TimeEmbedding(nn.Sequential):
    """Times (B,) as vectors (B, width): sinusoids, then two linear layers."""

    def __init__(self, width: int) -> None:
        sinusoids = Timesteps(FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=1)
        super().__init__(sinusoids, TimestepEmbedding(FREQUENCIES, width))


class Block(nn.Module):
    """Attention and a perceptron, each scaled, shifted and gated by the condition (adaLN-Zero)."""

    def __init__(self, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        width = heads * head_width
        self.norm1 = AdaLayerNormZero(width)
        self.attn1 = Attention(width, heads=heads, dim_head=head_width, dropout=dropout, bias=True)
        self.norm3 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.ff = FeedForward(width, dropout=dropout, activation_fn="gelu-approximate")

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, N, width) from tokens, given conditions (B, width)."""
        h, gate, shift, scale, gate_ff = self.norm1(x, emb=condition)
        x = x + gate[:, None] * self.attn1(h)
        h = self.norm3(x) * (1 + scale[:, None]) + shift[:, None]
        out: Tensor = x + gate_ff[:, None] * self.ff(h)
        return out


class Transformer(nn.Module):
    """Images to patches, blocks, and patches to images (Peebles & Xie 2023, figure 3).

    Other than diffusers' DiTTransformer2DModel it embeds times and labels once and not in every block, needs
    no labels, drops none by itself, and takes images that are no squares. What both have has the same names.

    Args:
        shape: (C, H, W) of its inputs.
        out_channels: of its outputs.
        patch_size: side of a patch; divides H and W.
        num_layers: blocks.
        num_attention_heads: of each block.
        attention_head_dim: channels of a head.
        classes: labels that it embeds, "no class" included; 0 for none.
        second_time: whether it embeds a second time.
        dropout: after attention and within the perceptrons.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        out_channels: int,
        patch_size: int,
        num_layers: int,
        num_attention_heads: int,
        attention_head_dim: int,
        classes: int,
        second_time: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.rows, self.columns = height // patch_size, width // patch_size
        self.patch_size, hidden = patch_size, num_attention_heads * attention_head_dim
        self.proj = nn.Conv2d(channels, hidden, patch_size, stride=patch_size)
        places = get_2d_sincos_pos_embed(
            hidden, (self.rows, self.columns), base_size=self.rows, output_type="pt"
        )
        self.register_buffer("places", places.float(), persistent=False)
        self.time = TimeEmbedding(hidden)
        self.second_time = TimeEmbedding(hidden) if second_time else None
        self.label = nn.Embedding(classes, hidden) if classes else None
        self.transformer_blocks = nn.ModuleList(
            Block(num_attention_heads, attention_head_dim, dropout) for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.proj_out_1 = nn.Linear(hidden, 2 * hidden)
        self.proj_out_2 = nn.Linear(hidden, patch_size**2 * out_channels)
        self._initialise()

    def forward(self, x: Tensor, time: Tensor, second: Tensor | None, label: Tensor | None) -> Tensor:
        """Images (B, out_channels, H, W) from x (B, C, H, W), times (B,), second times and labels (B,)."""
        condition = self.time(time)
        if self.second_time is not None:
            condition = condition + self.second_time(second)
        if self.label is not None:
            condition = condition + self.label(label)
        h = self.proj(x).flatten(2).transpose(1, 2) + self.places
        for block in self.transformer_blocks:
            h = block(h, condition)
        shift, scale = self.proj_out_1(nn.functional.silu(condition)).chunk(2, dim=1)
        h = self.proj_out_2(self.norm_out(h) * (1 + scale[:, None]) + shift[:, None])
        side = self.patch_size
        patches = h.view(x.shape[0], self.rows, self.columns, side, side, -1)  # (B, rows, columns, y, x, C)
        out: Tensor = patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return out

    @torch.no_grad()
    def _initialise(self) -> None:
        """As the authors do: blocks begin as the identity, and the output as 0."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, TimestepEmbedding):
                nn.init.normal_(module.linear_1.weight, std=0.02)
                nn.init.normal_(module.linear_2.weight, std=0.02)
            elif isinstance(module, AdaLayerNormZero):
                nn.init.zeros_(module.linear.weight)
        nn.init.zeros_(self.proj_out_1.weight)
        nn.init.zeros_(self.proj_out_2.weight)
