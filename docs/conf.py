"""Sphinx: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from reference import write_reference  # noqa: E402

project = "diffusion-toolkit"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "README.md"]
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
html_theme = "furo"
html_title = project
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # a console session is not the code that it quotes

write_reference(HERE / "reference")
