"""The smallest autoencoder, and a denoiser on its latents, for runs in seconds."""

AUTOENCODER = """
[run]
batch_size = 8
steps = 4
[data]
type = "digits"
[objective]
type = "autoencoder"
[networks.autoencoder]
type = "autoencoder_kl"
block_out_channels = [4, 8]
latent_channels = 2
norm_num_groups = 4
[optimizers.autoencoder]
type = "adam"
lr = 1e-3
"""
ADVERSARY = """
[networks.discriminator]
type = "patch_discriminator"
width = 4
layers = 1
[optimizers.discriminator]
type = "adam"
lr = 1e-3
"""
ONE_STEP = """
[schedule]
type = "betas"
betas = [1.0]
[samples]
num = 4
"""
