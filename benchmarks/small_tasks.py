"""Tasks of at most 3,000 training rows, judged on other rows of the training set.

What `defaults.py` and `rounding.py` train on. The validation sets stay unread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROWS, HELD_OUT = 3_000, 3_000
LEAST_HELD_OUT = 1_000
GLUE = ("mrpc", "stsb", "mnli", "qqp", "sst2")


def task_of(name: str, shared: Path, most: int = ROWS, judged: int = HELD_OUT) -> Any:
    """Return the task of a name: some training rows, other training rows to be judged on.

    `single-label GoEmotions` are its rows with exactly one of 28 emotions. `most`: training rows;
    `judged`: other ones, which follow them.
    """
    from datasets import DatasetDict

    import bertcompress as bc

    rows = shuffled(name, shared)
    train = min(most, len(rows) - LEAST_HELD_OUT)
    held_out = min(judged, len(rows) - train)
    splits = DatasetDict(
        train=rows.select(range(train)), validation=rows.select(range(train, train + held_out))
    )
    fields: dict[str, Any] = {"name": name, "text": "text", "label": "label", "max_length": 128}
    if name in GLUE:
        glue = bc.Task.load(f"glue/{name}")
        fields |= {"text": glue.text, "metrics": glue.metrics, "headline": glue.headline}
    if name in ("sick", "squad-pairs"):
        fields["text"] = ("first", "second")
    return bc.Task.from_dataset(splits, **fields)


def shuffled(name: str, shared: Path) -> Any:
    """Return the rows of a task in the order in which they are taken."""
    return whole(name, shared).shuffle(seed=0)


def whole(name: str, shared: Path) -> Any:
    """Return the training rows of a task that a cell may use."""
    from datasets import load_dataset

    if name in GLUE:
        return load_dataset(str(shared / "glue"), name, split="train")
    if name == "goemotions":
        return single_label(load_dataset(str(shared / "data" / "goemotions"), split="train"))
    if name == "sick":
        return sick(load_dataset(str(shared / "data" / "sickr"), split="train"))
    return squad_pairs(load_dataset(str(shared / "data" / "squad"), split="train"))


def single_label(rows: Any) -> Any:
    """Return GoEmotions' rows of one emotion, with its class."""
    from datasets import ClassLabel, Dataset, Features, Value

    feature = rows.features["labels"]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    one = [(text, labels[0]) for text, labels in zip(rows["text"], rows["labels"], strict=True)
           if len(labels) == 1]  # fmt: skip
    labels = ClassLabel(names=names) if names else Value("int64")
    return Dataset.from_dict(
        {"text": [text for text, _ in one], "label": [label for _, label in one]},
        features=Features({"text": Value("string"), "label": labels}),
    )


def sick(rows: Any) -> Any:
    """Return SICK's pairs with their entailment label."""
    from datasets import Dataset

    label = next(name for name in ("label", "entailment_judgment") if name in rows.column_names)
    first, second = ("sentence_A", "sentence_B")
    if first not in rows.column_names:
        first, second = "sentence1", "sentence2"
    return Dataset.from_dict(
        {"first": rows[first][:], "second": rows[second][:], "label": rows[label][:]}
    )


def squad_pairs(rows: Any) -> Any:
    """Return question and sentence of its context, and whether the sentence holds the answer.

    Two pairs a question: the sentence with the answer and one other of the same context.
    """
    from datasets import Dataset

    found: dict[str, list[Any]] = {"first": [], "second": [], "label": []}
    for row in rows:
        start = row["answers"]["answer_start"][0]
        sentences = sentences_of(row["context"])
        holding = [text for text, begin, end in sentences if begin <= start < end]
        others = [text for text, begin, end in sentences if not begin <= start < end]
        for texts, label in ((holding, "answer"), (others, "other")):
            if texts:
                found["first"].append(row["question"])
                found["second"].append(texts[start % len(texts)])
                found["label"].append(label)
    return Dataset.from_dict(found)


def sentences_of(text: str) -> list[tuple[str, int, int]]:
    """Return the sentences of a text with where each begins and ends."""
    found, begin = [], 0
    for position, sign in enumerate(text):
        if sign in ".!?" and text[position + 1 : position + 2] in ("", " "):
            found.append((text[begin : position + 1].strip(), begin, position + 1))
            begin = position + 1
    if text[begin:].strip():
        found.append((text[begin:].strip(), begin, len(text)))
    return found
