"""Small settings in which the toolkit checks this plugin, here in its tests and by `toolkit plugin test`."""

from toolkit import Objective
from toolkit.testing import Case

# The packaged recipe with a smaller network: every check takes a few steps.
RECIPE = """
extends = ["bright_digits"]

[networks.denoiser]
block_out_channels = [16, 16]
"""


def cases() -> list[Case]:
    return [Case(Objective, "bright", recipe=RECIPE)]
