"""A finished run to the Hub, in one commit, without what is local or secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bertcompress.errors import NotFound, OutputError
from bertcompress.publish.card import card_facts, render
from bertcompress.publish.scrubbing import local_values, scrub, scrub_config, scrub_data, scrub_yaml
from bertcompress.report import Report

__all__ = ["push"]

_LEFT_OUT = ("stages", "baseline")
"""Intermediate models, and the baseline's files, which others have already."""

_CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json")


def push(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload a run to `owner/name` in one commit and return the commit's URL.

    The model goes to the top of the repository, so that `from_pretrained("owner/name")` finds it;
    ONNX and OpenVINO files, report and figures keep their places. What goes up holds no token, no
    password and no absolute path; the run itself stays as it is. Uses the token of the environment
    or of `hf auth login`. Raises NotFound for a folder that is no run, OutputError where the Hub
    refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    run = Path(folder)
    if not (run / "report.json").is_file():
        raise NotFound(f"{run}: no report.json; this is not the folder of a finished run")
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in _contents(run, repository)
    ]
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository, operations, commit_message="Upload a compressed model"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = type(error).__name__
        raise OutputError(f"{repository}: the Hub refused the upload ({reason})") from None
    return str(commit.commit_url)


def _contents(run: Path, repository: str) -> Iterator[tuple[str, Path | bytes]]:
    """Yield the place in the repository and the content of each file, scrubbed where it is text."""
    written = _rendered(run, repository)
    for path in sorted(run.rglob("*")):
        inside = path.relative_to(run)
        if not path.is_file() or inside.parts[0] in _LEFT_OUT:
            continue
        text = written.get(inside.as_posix()) or _scrubbed(path, inside)
        place = inside.relative_to("model") if inside.parts[0] == "model" else inside
        yield place.as_posix(), path if text is None else text.encode()


def _rendered(run: Path, repository: str) -> dict[str, str]:
    """Return what is made anew from the scrubbed report, so that no path hides in a sentence."""
    plain = Report.load(run).model_dump(mode="json")
    report = Report.model_validate(scrub_data(plain, local_values(plain)))
    made = {
        "report.json": report.model_dump_json(indent=2) + "\n",
        "report.md": report.to_markdown(),
        "report.html": report.to_html(),
    }
    if (run / "model" / "config.json").is_file():
        made["model/README.md"] = _card(run, report, repository)
    return made


def _card(run: Path, report: Report, repository: str) -> str:
    """Return the card again, with the name of the repository in its code."""
    from huggingface_hub import ModelCard

    from bertcompress.recipe import Recipe  # brings torch along

    old = run / "model" / "README.md"
    known = ModelCard.load(old).data if old.is_file() else None
    facts = card_facts(
        report,
        Recipe.load(run / "recipe.yaml"),
        run / "model",
        repo_id=repository,
        base_model=getattr(known, "base_model", None),
        license_id=getattr(known, "license", None),
    )
    return render(facts)


def _scrubbed(path: Path, inside: Path) -> str | None:
    """Return the text to upload, or None for a file that goes up as it is.

    Those are weights, code, and the tables of tokenizers, where anything is a word.
    """
    if path.suffix == ".yaml":
        return scrub_yaml(path.read_text(encoding="utf-8"))
    if path.name in _CONFIGS:
        return scrub_config(path.read_text(encoding="utf-8"))
    if len(inside.parts) > 1 and path.suffix != ".svg":
        return None
    if path.suffix == ".json":
        return json.dumps(scrub_data(json.loads(path.read_text(encoding="utf-8"))), indent=2) + "\n"
    return (
        scrub(path.read_text(encoding="utf-8")) if path.suffix in (".md", ".svg", ".txt") else None
    )
