"""What each kind of task keeps on real data: `small` and `int8` beside the fine-tuned baseline.

    python benchmarks/heads.py tokens --data-dir FOLDER [--only mit_restaurant] [--limit 500]

FOLDER has a folder for each data set, such as `mit_restaurant`. Writes
benchmarks/results/heads/NAME.json for each row; with --limit nothing is written but to the screen.
A head is one row or more of `ROWS`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "heads"
MODEL = "embedded:minilm-l6"
PARITY_ROWS = 200


@dataclass(frozen=True)
class Row:
    """One data set for one head."""

    head: str
    """The sub-command."""
    folder: str
    """Below `--data-dir`."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the task."""
    goals: Mapping[str, float] = field(default_factory=dict)
    """Recipe to the share of the baseline's headline that it should keep."""
    measure: Callable[[Row, Path, int | None], dict[str, Any]] | None = None
    """What is measured; None: `kept`."""


TAGS = {"text": ["tokens"], "label": "ner_tags", "problem": "tokens"}
ANSWERS = {
    "text": ["question", "context"],
    "label": "answers",
    "problem": "spans",
    "max_length": 384,
}
KEPT = {"int8": 0.99, "small": 0.97}


def kept(row: Row, data: Path, limit: int | None) -> dict[str, Any]:
    """Return what each recipe of the goals keeps of the fine-tuned baseline, one seed."""
    import bertcompress as bc

    task = bc.Task(name=row.folder, dataset=str(data / row.folder), **row.task)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for recipe, goal in row.goals.items():
            fields = {"model": MODEL, "task": task, "limit": limit, "measure": {"latency": False}}
            made = bc.Recipe.load(recipe, **fields)
            run = bc.run(made, Path(scratch) / recipe, say=print)
            found[recipe] = {"goal": goal, **_told(run.report)}
    return found


def _told(report: Any) -> dict[str, Any]:
    """Return scores and retentions of what ships, and the baseline's."""
    rows = [
        {
            "deployment": each.label,
            "mb": each.size_mb,
            "scores": {s.metric: round(s.value, 4) for s in each.scores},
            "parts": {p.name: [round(p.value, 4), p.n] for p in each.parts},
            "retention": each.retention,
            "interval": [each.retention_low, each.retention_high],
        }
        for each in report.last.deployments
    ]
    baseline = {s.metric: round(s.value, 4) for s in report.reference.main.scores}
    return {"baseline": baseline, "shipped": rows, "rows": report.last.deployments[0].headline.n}


def same_tags(row: Row, data: Path, limit: int | None) -> dict[str, Any]:
    """Return the share of tags that ONNX Runtime gives as torch does, in each language.

    A multilingual shape of random weights, its vocabulary of pieces learnt from the rows.
    """
    import numpy as np

    import bertcompress as bc
    from bertcompress.data import load_data
    from bertcompress.measure.scores import predict
    from bertcompress.runtimes import open_predictor
    from bertcompress.runtimes.torch import TorchPredictor

    count = limit or PARITY_ROWS
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        tasks = {
            language: bc.Task(
                name=f"{row.folder}-{language}", dataset=str(data / row.folder), config=language,
                **row.task,
            )
            for language in ("en", "de", "fr")
        }  # fmt: skip
        parts = {name: load_data(task, limit=count) for name, task in tasks.items()}
        folder = _multilingual(Path(scratch) / "model", list(parts.values()))
        bc.export(folder, Path(scratch))
        product = bc.load(folder)
        for name, part in parts.items():
            ours = predict(TorchPredictor(product.model), part, "validation", product.tokenizer)
            for precision in ("fp32", "int8"):
                onnx = open_predictor(Path(scratch) / "onnx", "onnxruntime", None, precision)
                theirs = predict(onnx, part, "validation", product.tokenizer)
                changed = part.task.head.changed(theirs, ours)
                assert changed is not None
                words = int(np.isfinite(ours[..., 0]).sum())
                found[f"{name} {precision}"] = {"words": words, "same": 1 - float(changed.mean())}
    return found


def _multilingual(folder: Path, parts: list[Any]) -> Path:
    """Save a model of XLM-R's kind with random weights, and its tokenizer; return the folder."""
    import torch
    import transformers
    from tokenizers import SentencePieceUnigramTokenizer, processors

    import bertcompress as bc

    inner = SentencePieceUnigramTokenizer()
    texts = [text for part in parts for text in part.train["text"][:]]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    inner.train_from_iterator(
        texts, vocab_size=4000, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner._tokenizer, bos_token="<s>", cls_token="<s>", eos_token="</s>",
        sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"], model_max_length=512,
    )  # fmt: skip
    torch.manual_seed(0)
    names = dict(enumerate(parts[0].labels))
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536, max_position_embeddings=514, type_vocab_size=1, id2label=names,
        label2id={name: i for i, name in names.items()}, pad_token_id=1, initializer_range=0.05,
    )  # fmt: skip
    bc.save(transformers.XLMRobertaForTokenClassification(config), folder, tokenizer)
    return folder


ROWS = {
    "mit_restaurant": Row("tokens", "mit_restaurant", {**TAGS, "validation": "test"}, KEPT),
    "bc5cdr": Row("tokens", "bc5cdr", {**TAGS, "validation": "test"}, KEPT),
    "wikiann": Row("tokens", "wikiann", TAGS, measure=same_tags),
    "squad": Row("spans", "squad", ANSWERS, {"int8": 0.99, "small": 0.95}),
}
"""Name of a result to what is measured."""


def main() -> None:
    """Measure the rows of a head, print and write each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("head", choices=sorted({row.head for row in ROWS.values()}))
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--only", choices=sorted(ROWS))
    parser.add_argument("--limit", type=int, help="rows, for a trial: nothing is written")
    args = parser.parse_args()

    from bertcompress.runtimes.hardware import environment
    from bertcompress.support.quiet import silence

    silence()
    for name, row in ROWS.items():
        if row.head != args.head or args.only not in (None, name):
            continue
        found = (row.measure or kept)(row, args.data_dir, args.limit)
        result = {"data": row.folder, "head": row.head, "model": MODEL, "seed": 0, "found": found}
        print(json.dumps(result, indent=1))
        if args.limit is None:
            RESULTS.mkdir(parents=True, exist_ok=True)
            whole = {**result, "environment": environment()}
            (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
