"""The teacher of a run: the model that a recipe names for it, and the rows as it reads them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bertcompress.data import TaskData, align_labels, differ
from bertcompress.deployment import Product
from bertcompress.engines.distillation.alignment import other_prompts, same_pieces, same_tokens
from bertcompress.errors import ModelError, Notice, few
from bertcompress.heads.stock import has_head, read_as
from bertcompress.models.io import load, max_tokens
from bertcompress.models.locate import weight_files
from bertcompress.models.tokenizers import check_vocabulary
from bertcompress.recipe import Recipe
from bertcompress.runs.store import stage_key
from bertcompress.runs.successor import Successor
from bertcompress.support.files import file_digest
from bertcompress.training.task_head import class_names, reorder_classes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["RunTeacher", "teacher_of", "weights_digest"]


@dataclass(frozen=True)
class RunTeacher:
    """What answers as the teacher of a run, and how it reads the rows."""

    named: tuple[Product, str] | None
    """The model that the recipe names, in this task's classes, and its digest; None: its own."""
    data: TaskData | None = None
    """The rows as the teacher reads them; None: as the recipe's model does."""
    notes: tuple[str, ...] = ()
    by_order: str | None = None
    """In words that its classes are taken to be the task's in this order; None: by name."""


def weights_digest(name: str, revision: str | None = None) -> str:
    """Return the sha256 of a model's weights, config and tokenizer files."""
    return file_digest(weight_files(name, revision))


def teacher_of(
    recipe: Recipe, rows: TaskData, taught: TaskData | Successor, own: Product
) -> RunTeacher:
    """Return the teacher that a recipe names, and the rows as the teacher of the run reads them.

    A tokenizer that makes more tokens of a text needs more room for it. `rows`: not cut yet;
    `taught`: as those read them that are taught; `own`: the model, which teaches its student.
    Raises ModelError for a teacher that does not answer the task.
    """
    anew = isinstance(taught, Successor)
    data = taught.data if isinstance(taught, Successor) else taught
    tokenizer = taught.tokenizer if isinstance(taught, Successor) else own.tokenizer
    named, by_order = _named(recipe, data)
    if named is None:
        alike = anew and _reads_alike(own, tokenizer, data, same_columns=False)
        return RunTeacher(None, data if alike else None)
    product, digest = named
    if _reads_alike(product, tokenizer, data):
        return RunTeacher(named, data if anew else None, by_order=by_order)
    pooling = other_prompts(product.model, data)
    if pooling is not None:
        rows = replace(rows, task=rows.task.model_copy(update={"pooling": pooling}))
    limit = max_tokens(product.model)
    if rows.task.max_length is not None and rows.task.max_length > limit:
        rows = replace(rows, task=rows.task.model_copy(update={"max_length": limit}))
    fitted = rows.fitted(product.tokenizer, limit)
    theirs, told = fitted.task.max_length, [*fitted.notes[len(rows.notes) :]]
    told = [f"the teacher's texts: {line}" for line in told]
    if pooling is not None:
        told.insert(0, "the teacher's texts have its own prompts, not those of the model")
    ours = data.task.max_length
    if theirs != ours:
        # Hidden states go token by token.
        reads_all = pooling is None and limit >= (ours or 0)
        if reads_all and same_pieces(product.tokenizer, tokenizer, data):
            return RunTeacher(named, data if anew else None, by_order=by_order)
        what = (
            "the teacher's tokenizer differs" if pooling is None else "the teacher's prompts differ"
        )
        if same_tokens(product.tokenizer, tokenizer) and pooling is None:
            what = f"the teacher reads at most {limit} tokens"
        told.insert(0, f"{what}: its max_length is {theirs}, not {ours}")
        digest = stage_key({"files": digest, "max_length": theirs})
    return RunTeacher((product, digest), fitted, tuple(told), by_order)


def _reads_alike(
    product: Product,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    same_columns: bool = True,
) -> bool:
    """Return whether a model takes texts just as they are cut for another tokenizer.

    `same_columns`: False where it is enough that they are cut alike: BERT's tokens with segments.
    """
    longest, theirs = data.task.max_length or 0, product.tokenizer
    if other_prompts(product.model, data) is not None or max_tokens(product.model) < longest:
        return False
    if same_tokens(theirs, tokenizer):
        return True
    same_words = not same_columns and theirs.get_vocab() == tokenizer.get_vocab()
    return same_words and same_pieces(theirs, tokenizer, data)


def _named(recipe: Recipe, data: TaskData) -> tuple[tuple[Product, str] | None, str | None]:
    """Return the teacher that the recipe names, its outputs in the order of the student's.

    Also the line on an order that names did not decide.
    """
    if not recipe.teacher:
        return None, None
    product = load(recipe.teacher, head=read_as(data.task.head))
    model: Any = product.model
    if not has_head(type(model), data.task.head):
        raise ModelError(f"teacher '{recipe.teacher}': a {type(model).__name__}, which has no head")
    if data.num_labels and int(model.config.num_labels) != data.num_labels:
        raise ModelError(
            f"teacher '{recipe.teacher}': answers with {model.config.num_labels} numbers, task "
            f"'{data.task.name}' needs {data.num_labels}"
        )
    check_vocabulary(product.tokenizer, data.train["text"], recipe.teacher)
    order = align_labels(data.labels, class_names(model)) if data.labels else None
    if order is not None:
        reorder_classes(model, order)
    elif differ(data.labels, class_names(model)):
        raise ModelError(
            f"teacher '{recipe.teacher}': its classes are {few(class_names(model).values())}, "
            f"those of '{data.task.name}' {few(data.labels)}; by order they are never matched"
        )
    words = None
    if order is None and len(data.labels) > 1:
        words = (
            f"the teacher's classes ({few(class_names(model).values())}) are not named as "
            f"those of {data.task.name}; they are taken to be, in this order, "
            f"{few(data.labels)}"
        )
        warnings.warn(words, Notice, stacklevel=2)
    return (product, weights_digest(recipe.teacher)), words
