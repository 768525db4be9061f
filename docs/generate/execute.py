"""Execute the Python of a page as a notebook does, and write what it prints and draws into the page.

    python docs/generate/execute.py docs/howto/python.md

A block of Python is followed by a block of text with its output. A picture that the code saves in the working
directory is copied to the place of the picture of that name on the page.
"""

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

CELL = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<output>.*?)```", re.DOTALL)


def execute(text: str) -> str:
    """The page with the output of each cell; all cells share their names."""
    names: dict[str, object] = {}

    def run(cell: re.Match[str]) -> str:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(cell["code"], names)
        return f"```python\n{cell['code']}```\n\n```text\n{output.getvalue()}```"

    return CELL.sub(run, text)


def main(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        executed = execute(text)
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            if os.path.exists(Path(target).name):
                shutil.copy(Path(target).name, page.parent / target)
    page.write_text(executed, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
