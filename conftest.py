"""For all tests: a torchvision without its operators would take diffusers with it when that is imported."""

from toolkit_fidelity.torchvision import define_missing_operators

define_missing_operators()
