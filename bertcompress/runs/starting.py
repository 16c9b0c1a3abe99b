"""What a run begins with: data and model of a recipe, refused here where they cannot work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.artefact import Product, load, locate, max_tokens
from bertcompress.data import TaskData, load_data
from bertcompress.errors import ModelError, RecipeError
from bertcompress.methods.finetune import already_finetuned
from bertcompress.recipe import Recipe
from bertcompress.store import file_digest, stage_key

if TYPE_CHECKING:
    import torch

__all__ = ["Say", "Start", "prepare", "weights_digest"]

Say = Callable[[str], None]
"""Takes one line at a time about what is going on."""


@dataclass(frozen=True)
class Start:
    """What a run begins with."""

    data: TaskData
    product: Product
    finetuned: bool
    """Whether the model, as it came, answers this task."""
    source: str
    """Digest of the model, its new head included."""
    device: torch.device


def prepare(recipe: Recipe, data_dir: str | Path | None, say: Say) -> Start:
    """Read task, data and model, and refuse what cannot work before anything is computed."""
    from transformers import set_seed

    task = recipe.resolved_task()
    say(f"model {recipe.model}")
    set_seed(recipe.seed)
    product = load(recipe.model, revision=recipe.revision)
    classifier = type(product.model).__name__.endswith("ForSequenceClassification")
    config: Any = product.model.config
    names = {int(i): str(name) for i, name in config.id2label.items()} if classifier else None
    say(f"task {task.name}")
    data = load_data(
        task, data_dir=data_dir, seed=recipe.seed, limit=recipe.limit, model_labels=names
    )
    limit = max_tokens(product.model)
    if data.task.max_length > limit:
        raise ModelError(
            f"task '{task.name}': max_length {data.task.max_length} is beyond the model's position "
            f"table of {limit} tokens; set max_length to at most {limit}"
        )
    for method in recipe.methods:
        method.check(product.model)
    finetuned = already_finetuned(product.model, data)
    source = weights_digest(recipe.model, recipe.revision)
    if not finetuned:
        product = _fresh_head(recipe, data)
        source = stage_key({"files": source, "head": recipe.seed, "labels": list(data.labels)})
    return Start(data, product, finetuned, source, _device())


def weights_digest(name: str, revision: str | None = None) -> str:
    """Return the sha256 of a model's weights, config and tokenizer files."""
    wanted = (".safetensors", ".json", ".txt", ".model")
    folder = locate(name, revision=revision)
    return file_digest(sorted(path for path in folder.iterdir() if path.suffix in wanted))


def _fresh_head(recipe: Recipe, data: TaskData) -> Product:
    """Return the model with a new head for the task, which only `finetune` may train."""
    from transformers import set_seed

    if not any(method.key == "finetune" for method in recipe.methods):
        raise RecipeError(
            f"methods: model '{recipe.model}' has no head for task '{data.task.name}'; put "
            "finetune first, or give a model that is fine-tuned for it"
        )
    if data.task.problem == "unlabelled":
        raise RecipeError(
            f"methods: task '{data.task.name}' has no labels to fine-tune on; give a model that is "
            "fine-tuned already"
        )
    kind = {"regression": "regression", "multi_label": "multi_label_classification"}
    fields: dict[str, Any] = {
        "num_labels": data.num_labels,
        "problem_type": kind.get(data.task.problem, "single_label_classification"),
    }
    if data.labels:
        fields["id2label"] = dict(enumerate(data.labels))
        fields["label2id"] = {name: i for i, name in enumerate(data.labels)}
    set_seed(recipe.seed)
    return load(
        recipe.model,
        head="ForSequenceClassification",
        fresh_head=True,
        config_fields=fields,
        revision=recipe.revision,
    )


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
