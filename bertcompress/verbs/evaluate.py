"""Verbs on models that exist: `evaluate`, `bench`, `export`, `inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bertcompress.data import TaskData, data_of, judged_digest
from bertcompress.data.for_model import posed_by_model
from bertcompress.errors import InputError, ModelError
from bertcompress.heads import Head
from bertcompress.heads.stock import check_one_output, has_head, head_words
from bertcompress.measure.scores import Score, predict, score
from bertcompress.models.io import class_of, is_bare
from bertcompress.models.tokenizers import check_vocabulary
from bertcompress.runtimes import open_predictor, runtime_named
from bertcompress.support.display import logged
from bertcompress.task import Task
from bertcompress.verbs.places import Place, Say, find_place
from bertcompress.verbs.run_task import TEST, is_test_file, kept_task, with_test_file

__all__ = ["evaluate"]


def evaluate(
    model: str | Path,
    task: str | Task | None = None,
    *,
    test: str | Path | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    split: str = "validation",
    data_dir: str | Path | None = None,
    limit: int | None = None,
    revision: str | None = None,
    say: Say = logged,
) -> list[Score]:
    """Return the task's metrics of a model with their 95 % intervals.

    `model`: a folder, a run, an `.onnx` file or its folder, or a Hub id. A run stands for the
    deployment that its verdict is about; `runtime` and `precision` choose another, and `say` is
    told which it was. Without `task` it is that of the run, its limit of rows included; `test` is a
    file of rows that takes the place of the validation split, and is called `test` in the result.
    Labels are aligned by name through the model's `id2label`. Raises InputError and its kin.
    """
    place = find_place(model, runtime, precision, revision, say)
    wanted, limit, judged = _judged_by(place, task, test, limit)
    if runtime_named(place.runtime).opens_folders:
        wanted = posed_by_model(wanted, class_of(place.path), str(model))
    wanted = place.reads(wanted)
    _check_head(place, None if wanted.is_open else wanted.head)
    # A config that names no classes has two, called LABEL_0 and LABEL_1; one output names none.
    names = {int(i): str(name) for i, name in place.config.id2label.items()}
    given = names if len(names) > 1 else None
    check = partial(_check_head, place)
    data = data_of(str(model), given, wanted, data_dir=data_dir, limit=limit, check=check)
    check_one_output(place.config, data.task, str(model))
    if not data.task.head.has_labels:
        raise InputError(
            f"task '{data.task.name}' has no labels to evaluate against; compare models with "
            "bench, or run a recipe: its report gives the agreement with the original"
        )
    tokenizer = place.tokenizer(data.task)
    check_vocabulary(tokenizer, data.split(split)["text"], str(model))
    predictor = open_predictor(place.path, place.runtime, None, place.precision, device="auto")
    splits = [split, *data.also] if split == "validation" else [split]
    data = data.fitted(tokenizer)
    for line in (*_other_rows(judged, data, splits, str(model)), *data.notes):
        say(line)
    rows: list[Score] = []
    for name in splits:
        answers = predict(predictor, data, name, tokenizer, config=place.config)
        rows += score(data.task, data, name, answers)
    if not is_test_file(wanted):
        return rows
    return [row.model_copy(update={"split": TEST}) for row in rows]


_EMBEDDER = "An embedder is judged on pairs with scores by `problem: similarity` in a task file; "


def _other_rows(
    judged: str | None, data: TaskData, splits: Sequence[str], model: str
) -> tuple[str, ...]:
    """Return a line where the rows are no longer those that a run reported on."""
    if judged is None or "validation" not in splits or judged == judged_digest(data):
        return ()
    count = len(data.validation)
    return (f"{model}: other rows than the run reported on are there now ({count:,} rows)",)


def _judged_by(
    place: Place, task: str | Task | None, test: str | Path | None, limit: int | None
) -> tuple[Task, int | None, str | None]:
    """Return the task that was asked for, else that of the model's run, and the limit of rows.

    And the digest of the rows of that run, where they are meant.
    """
    judged = None
    if task is None:
        kept = kept_task(place.path)
        if kept is None:
            raise InputError(
                f"task: {place.model} is no run, which would know its own; name one: "
                "`bertcompress list tasks` shows them"
            )
        judged = None if limit or test else kept.judged
        task, limit = kept.task, limit if limit or test else kept.limit
    wanted = task if isinstance(task, Task) else Task.load(task)
    return (wanted if test is None else with_test_file(wanted, test)), limit, judged


def _check_head(place: Place, head: Head | None) -> None:
    """Raise ModelError for a model that does not answer as a head needs it.

    `head`: None where the labels have to be read first.
    """
    if not runtime_named(place.runtime).opens_folders:
        return
    cls = class_of(place.path)
    if not has_head(cls, head):
        needs = "one with a trained head" if head is None else f"...{head.auto_class}"
        raise ModelError(
            f"model '{place.model}': {head_words(cls)}; to evaluate it on this task it would have "
            f"to be {needs}. {_EMBEDDER if is_bare(cls) else ''}export, bench and inspect take it "
            "as it is"
        )
