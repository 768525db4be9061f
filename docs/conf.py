"""Sphinx: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from generate.elsewhere import relinked, write_elsewhere  # noqa: E402
from generate.reference import write_reference  # noqa: E402

project = "diffusion-toolkit"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
nitpicky = True
smartquotes = False  # quotes are those of TOML
suppress_warnings = ["misc.highlighting_failure"]  # a console session is not the code that it quotes

write_reference(HERE / "reference")
write_elsewhere()


def setup(app):
    """Let links of written pages to READMEs lead to the pages of these."""

    def lead(app, name, source):
        path = Path(app.env.doc2path(name))
        source[0] = relinked(source[0], path, path)

    app.connect("source-read", lead)
