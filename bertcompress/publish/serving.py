"""`serve.py` beside an ONNX file: answers texts without torch, transformers or this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from bertcompress.deployment import SERVE_FILE
from bertcompress.heads import HEADS, head_named
from bertcompress.heads.contexts import STRIDE
from bertcompress.heads.head import Served
from bertcompress.heads.pooling import Pooling
from bertcompress.heads.spans import MOST_TOKENS, THRESHOLD
from bertcompress.metrics.entities import Tags
from bertcompress.models.sentence import activation_of
from bertcompress.models.tokenizers import position_limit
from bertcompress.publish.templates import template
from bertcompress.runtimes import runtime_named
from bertcompress.runtimes.buckets import bucket_lengths
from bertcompress.support.files import write_atomically

__all__ = ["answers_of", "serve_source", "write_serving"]

Answers = Served | Literal["vector"]
_RETURNS: dict[Answers, str] = {
    "softmax": "the classes with their probabilities",
    "sigmoid": "the labels with the probability of each",
    "number": "the number as it is (no sigmoid)",
    "score": "the score, 0 to 1 (the sigmoid)",
    "tags": "each word with its tag and the probability of it",
    "span": "the answer",
    "vector": "the vector",
}
_BASES: dict[Answers, str] = {"span": "serve_spans.py.j2"}
"""Templates that those of the runtimes extend, where it is not `serve.py.j2`."""


def answers_of(config: Any, problem: str | None = None) -> Answers:
    """Return what becomes of a classifier's outputs.

    Args:
        config: Of the model, whose `problem_type` and number of outputs tell where the task does
            not.
        problem: Of the task, where one is known; of rows without labels it tells nothing.
    """
    if Pooling.of(config) is not None:
        return "vector"
    by_task = head_named(problem).serves if problem else None
    by_type: dict[str | None, Answers | None] = {
        head.problem_type: head.serves
        for head in reversed(HEADS.values())  # of several that share a type the first
        if head.has_labels and head.auto_class == HEADS["single_label"].auto_class
    }
    told = by_task or by_type.get(getattr(config, "problem_type", None))
    told = told or ("number" if int(config.num_labels) == 1 else "softmax")
    if told not in ("number", "score") or by_task == "number":
        return told
    stated = activation_of(config) or ("Sigmoid" if told == "score" else None)
    return "score" if stated == "Sigmoid" else "number"


def serve_source(
    runtime: str,
    file: str,
    config: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    problem: str | None = None,
    texts: int | None = None,
) -> str | None:
    """Return the source of `serve.py`; None for a runtime without a template of that name.

    Args:
        runtime: A key of `RUNTIMES`.
        file: Name of the ONNX file beside it.
        config: Of the model.
        tokenizer: Of the model; texts are cut and padded on its sides.
        max_length: Tokens that texts are cut to.
        problem: Of the task, as in `answers_of`.
        texts: How many texts a row has, 1 or 2; None where that is not known: either then.
    """
    answers = answers_of(config, problem)
    found = template(f"serve_{'tokens_' if answers == 'tags' else ''}{runtime}.py.j2")
    if found is None:
        return None
    limit = position_limit(config)
    pooling = Pooling.of(config) or Pooling()
    names = [str(config.id2label[i]) for i in range(int(config.num_labels))]
    # No text from outside gets into the code: names of classes are read from config.json.
    return found.render(
        aliases=pooling.aliases,
        answers=answers,
        base=_BASES.get(answers, "serve.py.j2"),
        cls_id=json.dumps(tokenizer.cls_token_id).replace("null", "None"),
        most_tokens=MOST_TOKENS,
        stride=STRIDE,
        threshold=THRESHOLD,
        dimensions=pooling.dimensions,
        lowercase=pooling.lowercase,
        mode=pooling.mode,
        normalize=pooling.normalize,
        file=json.dumps(file),
        lengths=list(bucket_lengths(min(max_length, limit), limit)),
        max_length=min(max_length, limit),
        outside=Tags.of(names).outside,
        pad_id=int(getattr(config, "pad_token_id", None) or 0),
        pad_type_id=int(tokenizer.pad_token_type_id),
        padding_side=json.dumps("left" if tokenizer.padding_side == "left" else "right"),
        returns=_RETURNS[answers],
        texts=1 if answers == "vector" else texts,
        truncation_side=json.dumps("left" if tokenizer.truncation_side == "left" else "right"),
    )


def write_serving(
    file: Path,
    runtime: str,
    config: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    problem: str | None = None,
    texts: int | None = None,
    allowed: bool | None = None,
) -> Path | None:
    """Write `serve.py` beside an ONNX file and return it; `problem`, `texts`: as in `serve_source`.

    A file that its own gate refused (`allowed` False) is not served: the fp32 file beside it is,
    and nothing is written where there is none, or where the runtime has no template.
    """
    plain = runtime_named(runtime).files.get("fp32")
    if allowed is False and plain is not None:
        file = file.with_name(plain.path.name)
    if not file.is_file() or not (file.parent / "tokenizer.json").is_file():
        return None
    target = file.with_name(SERVE_FILE)
    source = serve_source(runtime, file.name, config, tokenizer, max_length, problem, texts)
    if source is None:
        return None
    with write_atomically(target) as temporary:
        temporary.write_text(source, encoding="utf-8")
    return target
