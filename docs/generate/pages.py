"""Writing generated pages into a folder that has nothing else."""

from collections.abc import Mapping
from pathlib import Path


def write_pages(folder: Path, pages: Mapping[str, str]) -> None:
    """Write `name`.md for each text that is new or different, and remove pages of an earlier build."""
    wanted = {folder / f"{name}.md": text for name, text in pages.items()}
    for page in set(folder.rglob("*.md")) - set(wanted):
        page.unlink()
    for page, text in wanted.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        if not page.exists() or page.read_text(encoding="utf-8") != text:  # an unchanged page is not rebuilt
            page.write_text(text, encoding="utf-8")
