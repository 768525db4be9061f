"""Pages that lie elsewhere in the repository, the READMEs of plugins for one, as pages of the site.

They stay where they are. Their links are made to lead within the site, or to be plain text where the site
does not have what they name.
"""

import os
import re
from pathlib import Path

from generate.pages import write_pages

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def sources() -> dict[Path, Path]:
    """Files outside of docs/ and the files of their pages in it."""
    readmes = {
        readme: DOCS / "plugins" / f"{readme.parent.name}.md" for readme in ROOT.glob("plugins/*/README.md")
    }
    project = {
        ROOT / f"{name}.md": DOCS / "project" / f"{name.lower()}.md" for name in ("CONTRIBUTING", "CHANGELOG")
    }
    return {**readmes, **project}


def write_elsewhere() -> None:
    """Write the pages, and one that lists those of plugins."""
    texts: dict[str, dict[str, str]] = {"plugins": {}, "project": {}}
    for source, page in sorted(sources().items()):
        texts[page.parent.name][page.stem] = relinked(source.read_text(encoding="utf-8"), source, page)
    rows = [
        f"- [{text.splitlines()[0].lstrip('# ')}]({name}.md): `{name}`"
        for name, text in texts["plugins"].items()
    ]
    tree = ["```{toctree}", ":hidden:", *texts["plugins"], "```"]
    intro = (
        "What comes with the toolkit: methods, and tools around them. Each page is the README of its plugin."
    )
    texts["plugins"]["index"] = "\n".join(["# The plugins", "", intro, "", *rows, "", *tree, ""])
    for folder, pages in texts.items():
        write_pages(DOCS / folder, pages)


def relinked(text: str, source: Path, page: Path) -> str:
    """The text of `source` as it has to be in `page`."""

    def lead(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        name, hash_, heading = target.partition("#")
        file = Path(os.path.normpath(source.parent / name))
        there = sources().get(file, file)
        if not there.is_relative_to(DOCS):
            return label
        return f"{mark}[{label}]({Path(os.path.relpath(there, page.parent)).as_posix()}{hash_}{heading})"

    return LINK.sub(lead, text)
