"""What of a run goes up, and where to: scrubbed of what is local or secret where it is text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertcompress.deployment import Layout
from bertcompress.errors import OutputError
from bertcompress.hub.failures import token
from bertcompress.publish.card import CARD_FILE, card_facts, inherited, render
from bertcompress.publish.manifest import own_files
from bertcompress.publish.scrubbing import (
    local_values,
    scrub,
    scrub_config,
    scrub_data,
    scrub_yaml,
    token_in,
)
from bertcompress.report import Report
from bertcompress.support.reading import read_json, read_text

__all__ = ["contents"]

_RUN = Layout()
_CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json")


def contents(run: Path, repository: str) -> Iterator[tuple[str, Path | bytes]]:
    """Yield the place in the repository and the content of each of the run's own files.

    Raises OutputError for one that goes up as it is and holds what looks like a token.
    """
    # A server of one's own may give out tokens that look like nothing.
    secrets = [known] if (known := token()) else []
    written = _rendered(run, repository, secrets)
    for name in own_files(run):
        path, inside = run / name, Path(name)
        text = written.get(name) or _scrubbed(path, inside, secrets)
        content = path if text is None else text.encode()
        if found := token_in(content, secrets):
            raise OutputError(
                f"{path}: holds what looks like a token (it begins with {found}); nothing was "
                "sent. Take it out, or make the run again without it"
            )
        place = inside.relative_to(_RUN.model) if inside.is_relative_to(_RUN.model) else inside
        yield place.as_posix(), content


def _rendered(run: Path, repository: str, secrets: Sequence[str]) -> dict[str, str]:
    """Return what is made anew from the scrubbed report, so that no path hides in a sentence."""
    plain = Report.load(run).model_dump(mode="json")
    report = Report.model_validate(scrub_data(plain, [*secrets, *local_values(plain)]))
    made = {
        _RUN.report: report.model_dump_json(indent=2) + "\n",
        _RUN.report_markdown: report.to_markdown(),
        _RUN.report_page: report.to_html(),
    }
    if (Layout(run).model / "config.json").is_file():
        made[_RUN.model / CARD_FILE] = scrub(_card(run, report, repository), secrets)
    return {path.as_posix(): text for path, text in made.items()}


def _card(run: Path, report: Report, repository: str) -> str:
    """Return the card again, with the name of the repository in its code."""
    from bertcompress.recipe import Recipe  # brings torch along

    folder = Layout(run).model
    facts = card_facts(
        report,
        Recipe.load(Layout(run).recipe),
        folder,
        repo_id=repository,
        **inherited(folder / CARD_FILE, "base_model"),
    )
    return render(facts)


def _scrubbed(path: Path, inside: Path, secrets: Sequence[str]) -> str | None:
    """Return the text to upload, or None for a file that goes up as it is.

    Those are weights, code, and the tables of tokenizers, where anything is a word.
    """
    if path.suffix == ".yaml":
        return scrub_yaml(read_text(path), secrets)
    if path.name in _CONFIGS:
        return scrub_config(read_text(path), secrets)
    if len(inside.parts) > 1 and path.suffix != ".svg":
        return None
    if path.suffix == ".json":
        return json.dumps(scrub_data(read_json(path), secrets), indent=2) + "\n"
    if path.suffix in (".md", ".svg", ".txt"):
        return scrub(read_text(path), secrets)
    return None
