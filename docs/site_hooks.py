"""What the site needs beside the files in `docs/`: the pages that lie in the root, as its pages.

MkDocs calls these (`hooks` in mkdocs.yml). Links are rewritten, so that one text serves both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the root, and their places in the site."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:]+)(#[^)]*)?\)")
FILE = re.compile(r"\[(?:docs/)?([\w-]+)\.md\]\(")
IMAGE = re.compile(r"(src|srcset)=\"docs/")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Show the name of a page where a link shows its file: `results`, not `results.md`."""
    return FILE.sub(lambda found: f"[{found[1].replace('-', ' ')}](", markdown)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root."""
    for source, place in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=rewritten(text)))
    return files


def rewritten(text: str) -> str:
    """Return a page of the root as one of the site: what is not in the site is no link there."""

    def link(found: re.Match[str]) -> str:
        words, target, place = found[1], found[2], found[3] or ""
        if target in PAGES:
            return f"[{words}]({PAGES[target]}{place})"
        if target.startswith("docs/"):
            return f"[{words}]({target.removeprefix('docs/')}{place})"
        return f"`{words}`" if "/" in words else words

    return IMAGE.sub(r'\1="', LINK.sub(link, text))
