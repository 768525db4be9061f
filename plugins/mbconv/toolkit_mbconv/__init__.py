"""UNets of MBConv blocks with squeeze and excitation."""

from toolkit import Denoiser, Registry, hookimpl
from toolkit_mbconv.denoiser import MBConvUNet


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Denoiser, "mbconv_unet", MBConvUNet)
