"""The model card: the README.md of a saved `model/`, with the metadata that the Hub reads.

Neither a token nor a local absolute path gets into it, whatever the recipe holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

import bertcompress
from bertcompress.report import markdown_table
from bertcompress.report.rows import DeploymentRow, ReportData
from bertcompress.report.tables import cost, cost_line, overview, shape, story
from bertcompress.report.verdict import judged
from bertcompress.store import write_atomically

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData
    from jinja2 import Template

    from bertcompress.recipe import Recipe

__all__ = ["Rung", "model_card", "scrub", "write_card"]

Rung = Literal[1, 2, 3]
"""1: a stock class holds the model. 2: our class. 3: only ONNX or OpenVINO files."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SECRETS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "(token)"),
    (re.compile(r"(\w+://)[^\s/@]+@"), r"\1"),
    (re.compile(r"\bfile://\S+"), "(local)"),
    (
        re.compile(
            r"(?<![\w.:/<\\])(?:~?(?:/[\w.@+-]+)+/?|[A-Za-z]:\\[^\s'\"|]+|\\\\\w[^\s'\"|]+)"
        ),
        "(local)",
    ),
)
_PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
}
_METHOD_TAGS = {"prune": "pruned", "distill": "distilled", "quantize": "int8"}


def write_card(report: ReportData, recipe: Recipe, folder: Path, **fields: Any) -> Path:
    """Write `README.md` into a saved model's folder and return it.

    Rung, Auto class and pipeline are read from the folder's `config.json`. `fields`: those of
    `model_card` that only the caller can know (`repo_id`, `base_model`, `license_id` ...).
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = str(config.get("model_type", "")).startswith("bertcompress-")
    built = next(iter(config.get("architectures") or ()), "")
    head = next((head for head in _PIPELINES if built.endswith(head)), "")
    known: dict[str, Any] = {
        "auto_class": f"AutoModel{head}",
        "pipeline_tag": _PIPELINES.get(head, "feature-extraction"),
        "languages": [report.task["language"]] if report.task.get("language") else [],
        "papers": {method.key: method.paper for method in recipe.methods},
    }
    card = model_card(report, recipe.to_yaml(), 2 if own else 1, **{**known, **fields})
    with write_atomically(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    return folder / "README.md"


def model_card(
    report: ReportData,
    recipe_yaml: str,
    rung: Rung,
    *,
    name: str | None = None,
    repo_id: str | None = None,
    base_model: str | None = None,
    license_id: str | None = None,
    languages: Sequence[str] = (),
    auto_class: str = "AutoModelForSequenceClassification",
    pipeline_tag: str = "text-classification",
    papers: Mapping[str, str] | None = None,
) -> str:
    """Return the card as Markdown with YAML front matter.

    Args:
        report: What came out.
        recipe_yaml: The recipe as it ran.
        rung: How the folder `model/` loads.
        name: Shown as the title; by default made from base model and task.
        repo_id: `owner/name` on the Hub; without it the code says `path/to/this/folder`.
        base_model: Hub id; by default the recipe's model, if that is one.
        license_id: As the Hub spells it (`apache-2.0`); left out where it is not known.
        languages: ISO codes of the texts.
        auto_class: Auto class of transformers for the head.
        pipeline_tag: Task of the Hub.
        papers: Method key to its source, to be cited.
    """
    from huggingface_hub import ModelCard

    base = base_model or _hub_id(report.recipe.get("model"))
    title = name or _title(report, base)
    data = _metadata(report, title, base, license_id, languages, pipeline_tag)
    text = _template().render(
        card_data=data.to_yaml(),
        title=title,
        base=base,
        report=report,
        rung=rung,
        source=repo_id or "path/to/this/folder",
        auto_class=auto_class,
        pipeline=pipeline_tag,
        pair=len(report.task.get("text", ())) == 2,
        onnx=_file(report, "onnxruntime"),
        openvino=_file(report, "openvino"),
        simulated=[row for stage in report.stages for row in stage.deployments if row.simulated],
        tables={t.title: markdown_table(t) for t in (overview(report), story(report))},
        shape=_table_or_nothing(report, "shape"),
        cost=_table_or_nothing(report, "cost"),
        cost_line=cost_line(report),
        recipe=_scrubbed_yaml(recipe_yaml),
        papers=papers or {},
        version=bertcompress.__version__,
    )
    text = scrub(re.sub(r"\n{3,}", "\n\n", text))
    return str(ModelCard(text))  # reads the front matter back: invalid metadata raise here


def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.j2")


def scrub(text: str) -> str:
    """Return the text without tokens, passwords in addresses, and absolute local paths."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _scrubbed_yaml(text: str) -> str:
    """Return the recipe with whole values blanked where they are local: a path may hold spaces."""
    return str(yaml.safe_dump(_blank(yaml.safe_load(text)), sort_keys=False, allow_unicode=True))


def _blank(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _blank(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_blank(inner) for inner in value]
    local = isinstance(value, str) and re.match(r"/|~|[A-Za-z]:\\|\\\\|file:", value)
    return "(local)" if local else value


def _hub_id(value: Any) -> str | None:
    """Return the value if it names a repository: `runs/x` that exists here is a folder."""
    text = str(value)
    return text if _HUB_ID.fullmatch(text) and not Path(text).exists() else None


def _title(report: ReportData, base: str | None) -> str:
    model = re.split(r"[/\\:]", base or str(report.recipe.get("model", "encoder")))[-1]
    return f"{model}-{str(report.task.get('name', 'task')).replace('/', '-')}-compressed"


def _file(report: ReportData, runtime: str) -> str | None:
    """Return the smallest shipped file for a runtime, relative to the repository."""
    rows = [r for r in report.last.deployments if r.runtime == runtime and not r.simulated]
    smallest = min(rows, key=lambda row: row.size_mb, default=None)
    return smallest.path if smallest else None


def _table_or_nothing(report: ReportData, which: Literal["shape", "cost"]) -> str:
    table = shape(report) if which == "shape" else cost(report)
    return markdown_table(table) if table.rows else ""


def _metadata(
    report: ReportData,
    title: str,
    base: str | None,
    license_id: str | None,
    languages: Sequence[str],
    pipeline_tag: str,
) -> ModelCardData:
    from huggingface_hub import ModelCardData

    dataset = _hub_id(report.task.get("dataset"))
    row = judged(report.last) or report.last.main
    results = _results(report, row, dataset, pipeline_tag) if row else []
    return ModelCardData(
        base_model=base,
        datasets=[dataset] if dataset else None,
        eval_results=results or None,
        language=list(languages) or None,
        library_name="transformers",
        license=license_id,
        metrics=[result.metric_type for result in results] or None,
        model_name=title,
        pipeline_tag=pipeline_tag,
        tags=_tags(report),
        base_model_relation=_relation(report) if base else None,
    )


def _relation(report: ReportData) -> str:
    """Return `quantized` where precision is all that changed, else `finetune`."""
    methods = [stage.method for stage in report.stages if stage.method != "original"]
    return "quantized" if all(m.startswith("quantize") for m in methods) else "finetune"


def _tags(report: ReportData) -> list[str]:
    methods = [stage.method for stage in report.stages]
    found = [tag for key, tag in _METHOD_TAGS.items() if any(m.startswith(key) for m in methods)]
    runtimes = {row.runtime for row in report.last.deployments}
    formats = [*(["onnx"] if runtimes - {"torch"} else []), *sorted(runtimes & {"openvino"})]
    return ["bertcompress", "compression", *found, *formats]


def _results(
    report: ReportData, row: DeploymentRow, dataset: str | None, pipeline_tag: str
) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    task = report.task
    return [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=dataset or "private",
            dataset_name=str(task.get("name", "task")),
            dataset_config=task.get("config") if dataset else None,
            dataset_split=score.split,
            metric_type=score.metric,
            metric_name=f"{score.metric} ({row.label})",
            metric_value=round(score.value, 6),
            metric_args={
                "ci_low": round(score.ci_low, 6),
                "ci_high": round(score.ci_high, 6),
                "rows": score.n,
            },
        )
        for score in row.scores
    ]
