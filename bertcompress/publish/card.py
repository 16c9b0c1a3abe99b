"""The model card: the README.md of a saved `model/`, with the metadata that the Hub reads.

Neither a token nor a local absolute path gets into it, whatever the recipe holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from bertcompress._version import __version__
from bertcompress.heads.contexts import STRIDE
from bertcompress.heads.pooling import FIELD, Pooling
from bertcompress.heads.spans import MOST_TOKENS, THRESHOLD
from bertcompress.methods import METHODS, method_class
from bertcompress.models.config_fields import read_fields_of
from bertcompress.publish.scrubbing import local_values, named_only, scrub, scrub_yaml
from bertcompress.publish.templates import template
from bertcompress.report import markdown_table, markdown_tiles
from bertcompress.report.head import head, short_name
from bertcompress.report.plots import figure_names
from bertcompress.report.rows import DeploymentRow, ReportData
from bertcompress.report.speed import deployable, judged
from bertcompress.report.tables import Table, cost, overview, shape, story
from bertcompress.runtimes import RUNTIMES, known_runtime
from bertcompress.runtimes.buckets import bucket_lengths, padding_id
from bertcompress.support.files import write_atomically
from bertcompress.wording import NAME, markdown, plain

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

    from bertcompress.recipe import Recipe

__all__ = [
    "CARD_FILE",
    "CardFacts",
    "Rung",
    "card_facts",
    "inherited",
    "render",
    "write_card",
]

Rung = Literal[1, 2, 3]
"""1: a stock class holds the model. 2: our class. 3: only ONNX or OpenVINO files."""

CARD_FILE = "README.md"
CARD_BYTES = 5_000_000
"""Of another model's card; the Hub itself reads less."""
_SAID = {
    "license_id": re.compile(r"[A-Za-z0-9][\w.-]{0,60}"),
    "license_name": re.compile(r"[\w .,()+-]{1,100}"),
    "license_link": re.compile(r"https?://[^\s<>\"'`|()\[\]\\]{1,300}|[\w.-]{1,100}"),
    "language": re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*|multilingual|code"),
    "base_model": re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?"),
}
"""How what is taken from another card looks; what looks otherwise is left out."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
}

_EMBEDDER_TAGS = ("sentence-transformers", "feature-extraction")


@dataclass(frozen=True)
class CardFacts:
    """All that a card is made from."""

    report: ReportData
    recipe: str
    """The recipe as it ran, as YAML."""
    rung: Rung
    """How the folder `model/` loads."""
    repo_id: str | None = None
    """`owner/name` on the Hub; without it the code says `path/to/this/folder`."""
    base_model: str | None = None
    """Hub id; by default the checkpoint whose weights these were, if that is one."""
    license_id: str | None = None
    """As the Hub spells it (`apache-2.0`); left out where it is not known."""
    license_name: str | None = None
    """Where the license is `other`."""
    license_link: str | None = None
    """Where the license is `other`: its text."""
    language: tuple[str, ...] = ()
    """As the base model's card says; left out where it says nothing."""
    auto_class: str = "AutoModelForSequenceClassification"
    pipeline_tag: str = "text-classification"
    pooling: Pooling | None = None
    """How its vectors are pooled; None for what is no sentence embedder."""
    pad_id: int = 0
    """Token that texts are padded with."""
    limit: int = 512
    """Tokens of the longest text that the model takes."""
    threshold: float | None = None
    """Of a model that answers with spans, or with none; None where every question has an answer."""
    papers: Mapping[str, str] = field(default_factory=dict)
    """Method key to its source, to be cited."""

    @property
    def base(self) -> str | None:
        """Hub id of what was compressed."""
        return self.base_model or _hub_id(self.report.checkpoint)

    @property
    def student(self) -> str | None:
        """What went on in place of the model, without folders of this machine; None: nothing."""
        named = self.report.student
        return named and (_hub_id(named) or short_name(named))

    @property
    def teacher(self) -> str | None:
        """What taught it, without folders of this machine; None: nobody did."""
        named = self.report.teacher
        return named and (_hub_id(named) or short_name(named))

    @property
    def title(self) -> str:
        """Name of the repository, else base model and task in one name."""
        if self.repo_id:
            return self.repo_id.rpartition("/")[2]
        model = re.split(r"[/\\:]", self.base or self.report.checkpoint)[-1]
        return re.sub(r"[^\w.-]+", "-", plain(f"{model}-{self.task_name}-compressed", NAME))

    @property
    def task_name(self) -> str:
        """Name of the task."""
        return str(self.report.task.get("name", "task"))

    @property
    def max_length(self) -> int:
        """Tokens that texts are cut to: as the task asks, else as many as the model takes."""
        return min(self.asked_length or self.limit, self.limit)

    @property
    def asked_length(self) -> int | None:
        """Tokens that the task cuts texts to; None: it does not ask for it, or is an embedder's."""
        return None if self.pooling is not None else self.report.data.asked_length

    @property
    def answers_spans(self) -> bool:
        """Whether the model answers questions with spans of a context."""
        return self.pipeline_tag == _PIPELINES["ForQuestionAnswering"]

    @property
    def stride(self) -> int:
        """Tokens that two windows of a context share."""
        return min(STRIDE, self.max_length // 2)

    @property
    def most_tokens(self) -> int:
        """Tokens of a span at most."""
        return MOST_TOKENS

    @property
    def threshold_name(self) -> str:
        """What the threshold is called in the model's config."""
        return THRESHOLD

    @property
    def serving(self) -> list[str]:
        """Packages that open the files with an example."""
        return [name for name in RUNTIMES if self.file(name) and template(f"card_{name}.md.j2")]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that single texts are padded to: all that the model is warmed for."""
        return bucket_lengths(self.max_length, self.limit)

    @property
    def source(self) -> str:
        """What the code in the card loads."""
        return self.repo_id or "path/to/this/folder"

    @property
    def simulated(self) -> list[DeploymentRow]:
        """Deployments whose bytes are not counted."""
        return [row for stage in self.report.stages for row in stage.deployments if row.simulated]

    @property
    def picture(self) -> str | None:
        """Address of the figure that says most; on the Hub the figures lie below the card."""
        name = next(iter(figure_names(self.report)), None)
        return name and f"{'' if self.repo_id else '../'}figures/{name}.png"

    @property
    def examples(self) -> list[tuple[str, str]]:
        """Template and smallest file of each runtime that there is an example for."""
        named = [(f"card_{runtime}.md.j2", self.file(runtime)) for runtime in RUNTIMES]
        return [(name, file) for name, file in named if file and template(name)]

    def file(self, runtime: str) -> str | None:
        """Return the smallest file for a runtime that was not refused, in the repository."""
        rows = [
            row
            for row in deployable(self.report.last)
            if row.runtime == runtime and row.allowed is not False
        ]
        smallest = min(rows, key=lambda row: row.size_mb, default=None)
        # It is written into code.
        return smallest.path if smallest and re.fullmatch(r"[\w./-]+", smallest.path) else None


def card_facts(
    report: ReportData,
    recipe: Recipe,
    folder: Path,
    **known: Any,
) -> CardFacts:
    """Return the facts of a saved model; how it loads is read from the folder's `config.json`.

    `known`: further fields of `CardFacts`, such as `repo_id` and what is `inherited`.
    """
    from bertcompress.models.tokenizers import longest_text  # brings torch along

    config = read_fields_of(folder / "config.json", str(folder))
    own = str(config.get("model_type", "")).startswith("bertcompress-")
    built = next(iter(config.get("architectures") or ()), "")
    head = next((head for head in _PIPELINES if built.endswith(head)), "")
    pooling = None if head else Pooling.of(SimpleNamespace(**{FIELD: config.get(FIELD)}))
    bare = "feature-extraction" if pooling is None else "sentence-similarity"
    return CardFacts(
        report=report,
        recipe=recipe.to_yaml(),
        rung=2 if own else 1,
        auto_class=f"AutoModel{head}",
        pipeline_tag=_PIPELINES.get(head, bare),
        pooling=pooling,
        pad_id=padding_id(folder),
        limit=longest_text(folder, str(folder)),
        threshold=chosen if isinstance(chosen := config.get(THRESHOLD), float) else None,
        papers={method.key: method.paper for method in recipe.methods},
        **known,
    )


def inherited(readme: Path, *also: str) -> dict[str, Any]:
    """Return the fields of `CardFacts` that a card hands on: license and language.

    `also`: further fields of its metadata. Nothing of a card that is not there, or says it in a way
    that cannot be read: a base model's card is not ours to mend.
    """
    data = _front_matter(readme)
    keys = {"license": "license_id", "license_name": "license_name", "license_link": "license_link"}
    keys |= {key: key for key in also}
    known: dict[str, Any] = {
        field: data[key]
        for key, field in keys.items()
        if isinstance(data.get(key), str) and _SAID[field].fullmatch(data[key])
    }
    spoken = data.get("language")
    languages = spoken[:100] if isinstance(spoken, list) else [spoken]
    said = [each for each in languages if isinstance(each, str)]
    if found := tuple(each for each in said if _SAID["language"].fullmatch(each)):
        known["language"] = found
    return known


def _front_matter(readme: Path) -> dict[str, Any]:
    """Return the metadata of a card; nothing where they cannot be read."""
    import yaml
    from huggingface_hub.repocard import metadata_load

    try:
        # Bounded before the client reads it.
        if not readme.is_file() or readme.stat().st_size > CARD_BYTES:
            return {}
        data = metadata_load(readme)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}


def write_card(report: ReportData, recipe: Recipe, folder: Path, **known: Any) -> Path:
    """Write `README.md` into a saved model's folder and return it; `known` as in `card_facts`."""
    facts = card_facts(report, recipe, folder, **known)
    with write_atomically(folder / CARD_FILE) as temporary:
        temporary.write_text(render(facts), encoding="utf-8")
    return folder / CARD_FILE


def render(facts: CardFacts) -> str:
    """Return the card as Markdown with YAML front matter, without anything local or secret."""
    from huggingface_hub import ModelCard

    report, recipe, top = facts.report, scrub_yaml(named_only(facts.recipe)), head(facts.report)
    page = template("card.md.j2", _said)
    assert page is not None
    text = page.render(
        card=facts,
        report=report,
        head=top,
        tiles=_Whole(markdown_tiles(top.tiles)),
        metadata=_Whole(_metadata(facts).to_yaml()),
        tables={t.title: _Whole(markdown_table(t)) for t in (overview(report), story(report))},
        shape=_Whole(_or_nothing(shape(report))),
        cost=_Whole(_or_nothing(cost(report))),
        recipe=_Whole(recipe),
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", recipe)), default=0)),
        version=__version__,
    )
    text = scrub(re.sub(r"\n{3,}", "\n\n", text), local_values([report.recipe, report.task]))
    return str(ModelCard(text))  # reads the front matter back: invalid metadata raise here


class _Whole(str):
    """A part of the card that is Markdown, YAML or code already."""


def _said(value: Any) -> Any:
    """Return what the template writes: names are no markup."""
    return markdown(value) if isinstance(value, str) and not isinstance(value, _Whole) else value


def _hub_id(value: Any) -> str | None:
    """Return the value if it names a repository: `runs/x` that exists here is a folder."""
    text = str(value)
    return text if _HUB_ID.fullmatch(text) and not Path(text).exists() else None


def _or_nothing(table: Table) -> str:
    return markdown_table(table) if table.rows else ""


def _metadata(facts: CardFacts) -> ModelCardData:
    from huggingface_hub import ModelCardData

    report = facts.report
    dataset = _hub_id(report.task.get("dataset"))
    other = facts.license_id == "other"
    row = judged(report.last) or report.last.main
    results = _results(facts, row, dataset) if row else []
    return ModelCardData(
        base_model=facts.base,
        datasets=[dataset] if dataset else None,
        eval_results=results or None,
        language=list(facts.language) or None,
        library_name="transformers" if facts.pooling is None else "sentence-transformers",
        license=facts.license_id,
        license_name=facts.license_name if other else None,
        license_link=facts.license_link if other else None,
        metrics=[result.metric_type for result in results] or None,
        model_name=facts.title,
        pipeline_tag=facts.pipeline_tag,
        tags=[*_tags(report), *([] if facts.pooling is None else _EMBEDDER_TAGS)],
        base_model_relation=_relation(report) if facts.base else None,
    )


def _relation(report: ReportData) -> str:
    """Return `quantized` where precision is all that changed, else `finetune`."""
    leaves = {method_class(m).leaves for m in report.methods if m in METHODS} - {"measurement"}
    return "quantized" if leaves == {"files"} else "finetune"


def _tags(report: ReportData) -> list[str]:
    methods = [stage.method for stage in report.stages if stage.method in METHODS]
    found = list(dict.fromkeys(tag for key in methods for tag in method_class(key).tags))
    ran = {row.runtime for row in report.last.deployments}
    known = filter(None, (known_runtime(name) for name in sorted(ran)))
    formats = dict.fromkeys(tag for runtime in known for tag in runtime.tags)
    return ["bertcompress", "compression", *found, *formats]


def _results(facts: CardFacts, row: DeploymentRow, dataset: str | None) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    config = facts.report.task.get("config")
    return [
        EvalResult(
            task_type=facts.pipeline_tag,
            dataset_type=dataset or "private",
            dataset_name=facts.task_name,
            dataset_config=config if dataset else None,
            dataset_split=score.split,
            metric_type=score.metric,
            metric_name=f"{score.metric} ({row.label})",
            metric_value=round(score.value, 6),
            metric_args={
                "ci_low": None if score.ci_low is None else round(score.ci_low, 6),
                "ci_high": None if score.ci_high is None else round(score.ci_high, 6),
                "rows": score.n,
            },
        )
        for score in row.scores
    ]
