"""Networks small enough for tests."""

from toolkit.diffusion.chain import vp_sde
from toolkit_ddgan.generator import LightGenerator


def light_generator(channels=1, side=8, **options):
    return LightGenerator(
        vp_sde(4), (channels, side, side), (8, 16), norm_num_groups=4, latent_width=5, mapping_width=16,
        layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), **options,
    )  # fmt: skip
