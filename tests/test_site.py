"""The pages as a site: strict, complete, and nothing is fetched where it is read."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "mkdocs.yml"
FETCHED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href|srcset)=\"?https?:")
IN_STYLES = re.compile(r"@import|url\(\s*[\"']?https?:")
GENERATED = {"index.md", "contributing.md", "changelog.md"}
"""Made by docs/site_hooks.py from the pages of the root."""


def pages(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from pages(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation_once():
    shown = list(pages(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["nav"]))
    docs = ROOT / "docs"
    written = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert sorted(shown) == sorted(written | GENERATED)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("needs the extra docs: pip install bertcompress[docs]")
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_fetches_nothing(site):
    built = list(site.rglob("*.html"))
    assert len(built) > 20
    for path in built:
        assert not FETCHED.search(path.read_text(encoding="utf-8")), path.name
    for path in site.rglob("*.css"):
        assert not IN_STYLES.search(path.read_text(encoding="utf-8")), path.name


def test_the_first_page_is_the_readme_and_its_links_lead_into_the_site(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    for target in re.findall(r"href=\"?([\w/-]+\.html)", text):
        assert (site / target).is_file(), target
    for target in re.findall(r"(?:src|srcset)=\"?(images/[\w.-]+)", text):
        assert (site / target).is_file(), target
    assert "images/score_vs_latency-light.svg" in text
    assert "CONTRIBUTING.md" not in text


def test_public_names_stand_with_their_docstrings(site):
    text = (site / "reference" / "functions.html").read_text(encoding="utf-8")
    assert "prune_structured" in text and "Remove these heads of each layer" in text
