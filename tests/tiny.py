"""The smallest recipes of one network and of two, for runs in seconds."""

TINY_DDPM = """
[run]
batch_size = 8
micro_batch_size = 4
steps = 4
log_every = 2
[data]
type = "digits"
[schedule]
type = "linear"
num_train_timesteps = 20
beta_start = 1e-3
beta_end = 0.3
[objective]
type = "denoising"
[networks.denoiser]
type = "unet"
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
dropout = 0.1
add_attention = false
[optimizers.denoiser]
type = "adamw"
lr = 1e-3
clip_norm = 1.0
[optimizers.denoiser.lr_schedule]
type = "constant"
warmup = 3
[ema.denoiser]
decay = 0.9
[sampler]
type = "ancestral"
variance = "fixed_large"
[samples]
num = 4
"""

TINY_DDGAN = """
[run]
batch_size = 8
micro_batch_size = 4
steps = 4
log_every = 2
[data]
type = "digits"
flip = true
[schedule]
type = "vp_sde"
num_train_timesteps = 4
[objective]
type = "ddgan"
r1_gamma = 0.1
r1_every = 2
[networks.denoiser]
type = "ddgan_light_generator"
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
latent_width = 4
mapping_width = 8
mapping_layers = 1
[networks.discriminator]
type = "ddgan_small_discriminator"
channels = 4
time_width = 8
[optimizers.denoiser]
type = "adam"
lr = 1e-3
betas = [0.5, 0.9]
[optimizers.denoiser.lr_schedule]
type = "cosine"
steps = 6
floor = 1e-5
[optimizers.discriminator]
type = "adam"
lr = 1e-3
betas = [0.5, 0.9]
[ema.denoiser]
decay = 0.9
start = "first_step"
[samples]
num = 4
"""

# All that DDGAN can do at once: R1, which differentiates twice, in every other step, an average, a second
# discriminator.
X0_DDGAN = (
    TINY_DDGAN.replace("r1_every = 2", "r1_every = 2\nx0_weight = 0.5")
    + """
[networks.x0_discriminator]
type = "ddgan_small_discriminator"
channels = 4
time_width = 8
[optimizers.x0_discriminator]
type = "adam"
lr = 1e-3
betas = [0.5, 0.9]
"""
)
