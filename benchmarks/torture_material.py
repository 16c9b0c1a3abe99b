"""What is tortured: a tiny random model, its tokenizer, rows that it can learn, and recipes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "sleeps",
    "runs",
    "sings",
    "not",
    "never",
    "good",
    "bad",
    "red",
    "blue",
    "old",
    "new",
    "house",
    "tree",
    "sees",
    "likes",
    "very",
    "and",
    "or",
    ".",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TRAIN = {"batch_size": 8, "learning_rate": 5e-3, "precision": "fp32", "patience": None}
SHORT: list[Any] = [
    {"finetune": {**TRAIN, "epochs": 2}},
    {"prune_structured": {"keep": 0.5, "rows": 32}},
    {"distill": {**TRAIN, "epochs": 1}},
]
"""Fine-tuned, cut, distilled: the last has a control."""


def tokenizer() -> Any:
    """Return a WordPiece tokenizer of a few words."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **{f"{name}_token": token for name, token in names.items()},
        model_input_names=["input_ids", "attention_mask"],
    )


def model(head: bool, **fields: Any) -> Any:
    """Return a random BERT of two layers; `fields` of its config make it larger."""
    import torch
    import transformers

    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "max_position_embeddings": 40,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 24,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "id2label": {0: "no", 1: "yes"},
        "label2id": {"no": 0, "yes": 1},
    }
    cls = transformers.BertForSequenceClassification if head else transformers.BertModel
    return cls(transformers.BertConfig(**shape | fields)).eval()


def write_rows(path: Path, rows: int, seed: int) -> None:
    """Write rows of which a text is `yes` exactly where it says `good`, as CSV or JSON lines."""
    draw = random.Random(seed)
    plain = [word for word in WORDS if word not in ("good", "bad", ".")]
    made = []
    for i in range(rows):
        words = draw.choices(plain, k=5)
        words[draw.randrange(5)] = "good" if i % 2 else "bad"
        made.append((" ".join(words) + " very" * (i % 7), "yes" if i % 2 else "no"))
    if path.suffix == ".csv":
        lines = ["text,label", *(f"{text},{label}" for text, label in made)]
    else:
        lines = [json.dumps({"text": text, "label": label}) for text, label in made]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_recipe(path: Path, model_name: str, methods: list[Any], suffix: str = "csv") -> None:
    """Write a recipe on the rows beside it; JSON is YAML as well."""
    files = {name: str(path.parent / f"{name}.{suffix}") for name in ("train", "validation")}
    task = {
        "name": "mine",
        "dataset": "csv" if suffix == "csv" else "json",
        "files": files,
        "text": "text",
        "label": "label",
        "max_length": 24,
    }
    path.with_name("task.yaml").write_text(json.dumps(task), encoding="utf-8")
    recipe = {
        "model": str(path.parent / model_name),
        "task": str(path.with_name("task.yaml")),
        "methods": methods,
        "measure": {"latency": False},
    }
    path.write_text(json.dumps(recipe), encoding="utf-8")


def make(place: Path, **fields: Any) -> None:
    """Write models, rows, task and recipe into a folder; nothing where they are there."""
    if (place / "recipe.yaml").exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    for name, head in (("bare", False), ("tuned", True)):
        model(head, **fields).save_pretrained(place / name)
        tokenizer().save_pretrained(place / name)
    for name, rows in (("train", 160), ("validation", 40)):
        write_rows(place / f"{name}.csv", rows, len(name))
        write_rows(place / f"{name}.jsonl", rows, len(name))
    write_recipe(place / "recipe.yaml", "bare", SHORT)
