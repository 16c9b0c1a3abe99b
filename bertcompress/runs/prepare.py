"""What a run begins with: data and model of a recipe, refused here where they cannot work."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.data import TaskData, load_data
from bertcompress.data.for_model import already_finetuned, posed_by_model
from bertcompress.data.transfer import TransferRows, TransferText
from bertcompress.deployment import Product
from bertcompress.engines.distillation.settings import check_fit
from bertcompress.errors import ModelError, RecipeError, few
from bertcompress.heads import Head
from bertcompress.heads.stock import check_head, check_one_output, has_head, read_as
from bertcompress.measure.footprint import half_size
from bertcompress.method import Need
from bertcompress.models.io import class_of, load, precision_of
from bertcompress.models.locate import locate
from bertcompress.models.sentence import sentence_folder, settled_pooling
from bertcompress.models.tokenizers import check_vocabulary
from bertcompress.recipe import Recipe
from bertcompress.runs.answering import selection_headline
from bertcompress.runs.checking import check_methods, check_metrics, metrics_for
from bertcompress.runs.other_models import OtherModel, other_models
from bertcompress.runs.store import stage_key
from bertcompress.runs.successor import Successor, fit_rows, shape_of, successor_of
from bertcompress.runs.teacher import RunTeacher, teacher_of, weights_digest
from bertcompress.runs.unlabelled import Say, check_augmented, transfer_texts
from bertcompress.runtimes.hardware import compute_device
from bertcompress.shapes import ShapeError, has_zeros
from bertcompress.task import Task
from bertcompress.training.task_head import class_names, with_new_head

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["Prepared", "Say", "prepare"]


def _gone() -> Product:
    raise ModelError("the model as it came is not kept")


@dataclass
class Prepared:
    """What a run begins with."""

    data: TaskData
    product: Product
    """The model as it came. Gone once it is released: its stages have it on disk."""
    finetuned: bool
    """Whether the model, as it came, answers this task."""
    source: str
    """Digest of the model, its new head included."""
    device: torch.device
    teacher: tuple[Product, str] | None
    """The teacher that the recipe names, in this task's classes, and its digest."""
    teacher_data: TaskData | None = None
    """The rows as that teacher reads them, where it does not cut them as the model does."""
    notes: tuple[str, ...] = ()
    by_order: tuple[str, ...] = ()
    """Whose classes were matched with the task's by order: of the model, of the teacher."""
    half_mb: float | None = None
    """Megabytes of the checkpoint as it came, where that is 16-bit."""
    student: Successor | None = None
    """The model that the run goes on with in place of its own."""
    transfer: Mapping[TransferText | None, TransferRows] = field(default_factory=dict)
    """The texts that methods name for their teacher."""
    others: tuple[OtherModel, ...] = ()
    """The models that stand beside the result."""
    open_original: Callable[[], Product] = _gone
    """Reads the model as it came once more, its new head included."""

    @property
    def shipped(self) -> TaskData:
        """The rows as the model reads them that the run ends with."""
        return self.student.data if self.student else self.data

    @property
    def cut(self) -> dict[str, float]:
        """Share of the rows of each split that are cut for a model of the run, the larger one."""
        theirs = self.shipped.cut
        return {name: max(share, theirs.get(name, 0.0)) for name, share in self.data.cut.items()}

    def release(self) -> Product:
        """Return the model and keep it no longer."""
        product = self.product
        del self.product
        return product


def prepare(recipe: Recipe, data_dir: str | Path | None, say: Say) -> Prepared:
    """Read task, data and models, and refuse what cannot work before anything is computed."""
    from transformers import set_seed

    task = recipe.resolved_task()
    say(f"model {recipe.model}")
    set_seed(recipe.seed)
    task = posed_by_model(task, class_of(recipe.model, revision=recipe.revision), recipe.model)
    head = None if task.is_open else task.head
    product = _with_head(recipe, head)
    task, lines = _for_model(recipe, task, product)
    say(f"task {task.name}")
    read = partial(load_data, task, data_dir=data_dir, seed=recipe.seed, limit=recipe.limit)
    rows = read(model_labels=_known_classes(product, head))
    files = weights_digest(recipe.model, recipe.revision)
    begun = None if product is None else _as_it_comes(recipe, product, rows, head, files)
    for line in begun.notes if begun else ():
        say(line)
    if begun is None or not begun.keeps_head:
        if rows.order is not None:  # what gets a new head gets the task's own order
            rows = read()
        begun = _with_new_head(recipe, rows, files, begun.notes if begun else ())
    product, data = begun.product, begun.data
    student, teacher = _checked(recipe, product, begun.rows, data, begun.finetuned, say)
    lines = (*lines, *(student.notes if student else ()), *teacher.notes)
    for line in lines:
        say(line)
    guessed = {"model": data.by_order, "teacher": teacher.by_order}
    check_augmented(recipe, data, [product, *(teacher.named or ())[:1]], say)
    further = (*product.findings.notes, *data.notes, *lines, *filter(None, guessed.values()))
    return Prepared(
        data=data,
        product=product,
        finetuned=begun.finetuned,
        source=begun.source,
        device=_device(),
        teacher=teacher.named,
        teacher_data=teacher.data,
        notes=(*begun.notes, *further),
        by_order=tuple(whose for whose, words in guessed.items() if words),
        half_mb=half_size(locate(recipe.model, revision=recipe.revision)),
        student=student,
        transfer=transfer_texts(recipe, data, data_dir, say),
        others=other_models(recipe, product, begun.rows, say),
        open_original=begun.again,
    )


@dataclass(frozen=True)
class _Begun:
    """The model that a run begins with, and the rows as it reads them."""

    product: Product
    rows: TaskData
    """Not cut yet."""
    data: TaskData
    finetuned: bool
    keeps_head: bool
    """Whether the head that came answers the task, or is trained on."""
    source: str
    """Digest of the model, a new head included."""
    again: Callable[[], Product]
    """Reads the same once more."""
    notes: tuple[str, ...]


def _as_it_comes(
    recipe: Recipe, product: Product, rows: TaskData, head: Head | None, files: str
) -> _Begun:
    """Return a model with the head that it came with; `files`: digest of its files.

    Raises for a head of other tasks.
    """
    check_head(type(product.model), rows.task.head, recipe.model)
    check_one_output(product.model.config, rows.task, recipe.model)
    data = fit_rows(rows, product, f"model '{recipe.model}'")
    finetuned, trained, notes = _answers(recipe, product, data)
    again = partial(load, recipe.model, head=read_as(head), revision=recipe.revision)
    return _Begun(product, rows, data, finetuned, finetuned or trained, files, again, notes)


def _with_new_head(recipe: Recipe, rows: TaskData, files: str, notes: tuple[str, ...]) -> _Begun:
    """Return a model with a head drawn by the seed; `files`: digest of the model's files.

    `notes`: why not the head that it came with.
    """
    rows = replace(rows, by_order=None)  # no class of the old head is left
    again = partial(_fresh_head, recipe, rows, notes)
    product = again()
    data = fit_rows(rows, product, f"model '{recipe.model}'")
    source = stage_key({"files": files, "head": recipe.seed, "labels": list(data.labels)})
    return _Begun(product, rows, data, False, False, source, again, notes)


def _check_taught(
    recipe: Recipe, teacher: Product, tokenizer: PreTrainedTokenizerBase, data: TaskData
) -> None:
    """Refuse a step that its teacher does not serve; `tokenizer` is of what it teaches."""
    for i, method in enumerate(recipe.methods):
        if Need.TEACHER in method.requires:
            try:
                method.check_teacher(teacher, tokenizer, data)
            except ModelError as error:
                raise ModelError(f"methods[{i}].{method.key}: {error}") from None


def _checked(
    recipe: Recipe, product: Product, rows: TaskData, data: TaskData, finetuned: bool, say: Say
) -> tuple[Successor | None, RunTeacher]:
    """Refuse what model, data and steps cannot do together; return student and teacher of the run.

    `rows`: not cut yet. The student is None where the run keeps to its own model.
    """
    _check_precision(recipe, product.model)
    check_vocabulary(product.tokenizer, data.train["text"], recipe.model)
    for line in (*product.findings.notes, *data.said, *data.notes):
        say(line)
    student = successor_of(recipe.methods, product, rows, data, recipe.seed)
    _check_shapes(recipe, data, product.model, student)
    check_metrics(data, _outputs(product.model))
    check_methods(recipe, data, product, finetuned, student)
    teacher = teacher_of(recipe, rows, student or data, product)
    taught = (student.tokenizer, student.data) if student else (product.tokenizer, data)
    _check_taught(recipe, teacher.named[0] if teacher.named else product, *taught)
    return student, teacher


def _with_head(recipe: Recipe, head: Head | None) -> Product | None:
    """Return the recipe's model with its head; None for one that was only pretrained.

    That one is read once its head is known. `head`: the task's; None where its labels have to be
    read first. Raises ModelError for a trained head of other tasks.
    """
    cls = class_of(recipe.model, revision=recipe.revision)
    if head is not None:
        check_head(cls, head, recipe.model)
    if not has_head(cls, head):
        return None
    return load(recipe.model, head=read_as(head), revision=recipe.revision)


def _for_model(recipe: Recipe, task: Task, product: Product | None) -> tuple[Task, tuple[str, ...]]:
    """Return the task with the pooling and the metrics of a model, and lines on them."""
    if product is None:
        return task, ()
    model: Any = product.model
    task = metrics_for(task, _outputs(model))
    if task.is_open or task.head.auto_class is not None:
        return task, ()
    folder = locate(recipe.model, revision=recipe.revision)
    pooling, line = settled_pooling(model.config, folder, recipe.model, task.pooling)
    demo = "the texts are those of a demo, made by code; give your own: --texts FILE"
    made = task.dataset.startswith("embedded:")
    lines = (line, demo if made and not task.head.has_labels else None)
    return task.model_copy(update={"pooling": pooling}), tuple(filter(None, lines))


def _known_classes(product: Product | None, head: Head | None) -> dict[int, str] | None:
    """Return the classes of a model's outputs; None where there are none, or it has no head.

    `head`: None where the labels have to be read first.
    """
    if product is None or (head is not None and head.auto_class is None):
        return None
    names = class_names(product.model)
    return names if len(names) > 1 else None  # one output is no class


def _device() -> torch.device:
    import torch

    return torch.device(compute_device())


def _replaced(model: Any, data: TaskData) -> str:
    """Return the line on a head that goes, since it answers another question."""
    theirs, ours = class_names(model), data.labels
    return (
        f"the model's head ({len(theirs)} outputs: {few(theirs.values())}) is not for this task "
        f"({few(ours) if ours else data.task.problem}): a new one is trained"
    )


def _check_precision(recipe: Recipe, model: Any) -> None:
    """Raise ModelError for weights that are stored in few bits."""
    if (stored := precision_of(model)) != "fp32":
        raise ModelError(
            f"model '{recipe.model}': stored in {stored}, which nothing can train or cut any more; "
            "start from the model that it was made of (evaluate, bench and export take it as it is)"
        )


def _check_shapes(recipe: Recipe, data: TaskData, model: Any, student: Successor | None) -> None:
    """Raise for a step that the model, or what is left of it by then, cannot take.

    ShapeError, and RecipeError for what a training looks at that is not there by then.
    """
    shape: Any = shape_of(model)
    for i, method in enumerate(recipe.methods):
        if method.replaces_model and student:
            shape = copy.deepcopy(student.shape)
            continue
        if has_zeros(shape) and method.leaves == "shape":
            raise ShapeError(
                f"methods[{i}].{method.key}: the model '{recipe.model}' has weights at zero, which "
                "a change of shape would lose; start from the model before they became zero"
            )
        method.check(shape)
        check_fit(method, shape, data, f"methods[{i}].{method.key}")
        method.plan_shape(shape)


def _outputs(model: Any) -> int:
    return int(model.config.num_labels)


def _answers(
    recipe: Recipe, product: Product, data: TaskData
) -> tuple[bool, bool, tuple[str, ...]]:
    """Return whether the model is fine-tuned for the task, whether its head is trained on, and why.

    Names decide where there are any. A head without names is believed when it is better than
    chance on the selection split, by its interval: an untrained one has the same shape. But that
    is no reason to leave out a `finetune` that was asked for, which starts from this head.
    """
    verdict = already_finetuned(product.model, data)
    if data.task.head.auto_class is None:  # every encoder has vectors; a training improves them
        trained = bool(recipe.methods) and recipe.methods[0].trains_head
        return not trained, trained, ()
    if verdict is not None:
        return verdict, False, () if verdict else (_replaced(product.model, data),)
    found = selection_headline(product, data)
    if found is None:  # rows of one kind have no such score
        return False, False, (_replaced(product.model, data),)
    chance = data.task.chance or 0.0
    told = f"{found.metric} {found.value:.3f} on the selection split, chance {chance:.3f}"
    if found.standing is None or not found.standing.above:
        text = f"the model's head is not taken as fine-tuned for this task: {told}"
        return False, False, (text,)
    if recipe.methods and recipe.methods[0].trains_head:
        text = f"no name tells that the model is fine-tuned for this task, so finetune runs: {told}"
        _name_classes(product.model, data)  # by their order so far; once trained, by name
        return False, True, (f"{text}; its head is kept and trained on",)
    text = f"the model's classes have no names; taken as fine-tuned for this task: {told}"
    return True, False, (text,)


def _name_classes(model: Any, data: TaskData) -> None:
    if data.labels:
        model.config.id2label = dict(enumerate(data.labels))
        model.config.label2id = {name: i for i, name in enumerate(data.labels)}


_AS_EMBEDDER = (
    "; as the sentence embedder that it is, it is judged on pairs with scores by "
    "`problem: similarity` in a task file"
)


def _scores_pairs_of_embedder(recipe: Recipe, data: TaskData) -> bool:
    pairs = data.task.head.has_units and len(data.task.text) > 1
    return pairs and sentence_folder(locate(recipe.model, revision=recipe.revision)) is not None


def _fresh_head(recipe: Recipe, data: TaskData, notes: tuple[str, ...]) -> Product:
    """Return the model with a new head for the task, which only `finetune` may train."""
    if not any(method.trains_head for method in recipe.methods):
        raise RecipeError(
            f"methods: model '{recipe.model}' has no head for task '{data.task.name}'"
            + "".join(f" ({note})" for note in notes)
            + "; put finetune first, or give a model that is fine-tuned for it"
            + (_AS_EMBEDDER if _scores_pairs_of_embedder(recipe, data) else "")
        )
    if not data.task.head.has_labels:
        raise RecipeError(
            f"methods: task '{data.task.name}' has no labels to fine-tune on; give a model that is "
            "fine-tuned already"
        )
    return with_new_head(recipe.model, data, recipe.seed, recipe.revision)
