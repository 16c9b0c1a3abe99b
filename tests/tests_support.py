"""Builders shared by the tests; a module of its own, so that helper processes can import it too."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bertcompress import shapes
from bertcompress.shapes import anatomy

KIN = ("xlm-roberta", "camembert")
"""RoBERTa under other class names: tested by themselves, in test_kin.py, not in every matrix."""
FAMILIES = [name for name in shapes.FAMILIES if name not in KIN]

HEADS = [
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForMaskedLM",
]
LAYERS, HEAD_COUNT, WIDTH = 3, 4, 24
WORDS = [
    "the", "a", "cat", "dog", "bird", "sleeps", "runs", "sings", "not", "never", "good", "bad",
    "red", "blue", "old", "new", "house", "tree", "sees", "likes", "very", "and", "or", ".",
]  # fmt: skip
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def first_fast(values: Iterable[object], fast: int = 1) -> list[object]:
    """Return the values for `parametrize`; all but the first so many are marked slow."""
    return [
        value if number < fast else pytest.param(value, marks=pytest.mark.slow)
        for number, value in enumerate(values)
    ]


def tiny_config(family: str = "bert", **fields: Any) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 40,
        "pad_token_id": 0,
        # Large enough that every part matters to the output.
        "initializer_range": 0.3,
        "num_labels": 3,
    }
    if family == "distilbert":
        shape |= {"dim": 16, "n_heads": HEAD_COUNT, "n_layers": LAYERS, "hidden_dim": WIDTH}
    else:
        shape |= {
            "hidden_size": 16,
            "num_attention_heads": HEAD_COUNT,
            "num_hidden_layers": LAYERS,
            "intermediate_size": WIDTH,
        }
    if family in ("albert", "electra"):
        shape["embedding_size"] = 8
    prefix = shapes.family_named(family).stock_prefix
    return getattr(transformers, f"{prefix}Config")(**shape | fields)


def tiny_model(
    family: str = "bert", head: str = "ForSequenceClassification", seed: int = 0, **fields: Any
) -> Any:
    torch.manual_seed(seed)
    cls = getattr(transformers, f"{shapes.family_named(family).stock_prefix}{head}")
    if head == "ForQuestionAnswering":
        fields = {"num_labels": 2} | fields
    return cls(tiny_config(family, **fields)).eval()


def tiny_tokenizer(*more: str) -> Any:
    """A tokenizer of `VOCABULARY` and of further words, whose numbers come after."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate([*VOCABULARY, *more])}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],  # transformers 4.57 adds token types
    )


def tiny_inputs(head: str = "ForSequenceClassification", rows: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, len(VOCABULARY), (rows, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if head == "ForMultipleChoice":
        return {key: value[:, None].repeat(1, 2, 1) for key, value in batch.items()}
    return batch


def random_batches(
    count: int = 3, rows: int = 6, length: int = 8, *, padded: int = 0, seed: int = 0
) -> list[dict[str, torch.Tensor]]:
    """Return batches of random tokens; the second row ends in `padded` tokens of padding."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        ids = torch.randint(5, 25, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, length - padded :] = 0
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


@torch.no_grad()
def answer(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what a model computes, all its outputs side by side."""
    output = model(**batch)
    parts = [output[key] for key in ("logits", "start_logits", "end_logits", "last_hidden_state")
             if key in output]  # fmt: skip
    return torch.cat([part.flatten() for part in parts])


def aligned(model: Any) -> Any:
    """Copy the weights out of the mapped file: kernels round differently on unaligned memory."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval()


def linear_parameters(model: Any) -> int:
    """Parameters of the matrices of the layers' linears, thin or dense."""
    return sum(
        sum(p.numel() for n, p in linear.module.named_parameters() if n.endswith("weight"))
        for layer in anatomy(model).layers
        for linear in layer.linears.values()
    )


def thin(model: Any, edit: Any) -> Any:
    """Apply an edit; the factors that it leaves empty get a truncated SVD of what was there."""
    view = anatomy(model)
    before = {
        (part, i): linear.weight.detach().clone()
        for i, layer in enumerate(view.layers)
        for part, linear in layer.linears.items()
        if linear.in_features
    }
    embeddings = view.base.get_submodule("embeddings")
    tables = {n: m.weight.detach().clone() for n, m in embeddings.named_children()
              if n.endswith("_embeddings")}  # fmt: skip
    shapes.apply_edit(model, edit)
    with torch.no_grad():
        if edit.kind == "lowrank":
            for (part, i), weight in before.items():
                linear: Any = anatomy(model).layers[i].linears[part].module
                if part in edit.ranks and edit.ranks[part][i]:
                    left, right = truncated_svd(weight, linear.rank)
                    linear.second.weight.copy_(left)
                    linear.first.weight.copy_(right)
        if edit.kind == "embedding":
            left, right = truncated_svd(tables["word_embeddings"], edit.size)
            if edit.tables == "word":
                embeddings.word_embeddings.table.weight.copy_(left)
                embeddings.word_embeddings.projection.weight.copy_(right.T)
            else:
                for name, weight in tables.items():
                    getattr(embeddings, name).weight.copy_(weight @ torch.linalg.pinv(right))
                embeddings.dropout.projection.weight.copy_(right.T)
    return model


def truncated_svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best factors of a rank (Eckart and Young), the scale shared between them."""
    u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def write_rows(path: Path, rows: int, seed: int, *, yes: str = "1", no: str = "0") -> None:
    """Write a CSV in which a text is `yes` exactly where it says `good`: a tiny model learns it."""
    draw = random.Random(seed)
    lines = ["text,label"]
    for i in range(rows):
        words = draw.choices([w for w in WORDS if w not in ("good", "bad", ".")], k=5)
        words[draw.randrange(5)] = "good" if i % 2 else "bad"
        lines.append(f"{' '.join(words)} {i % 7 * 'very '},{yes if i % 2 else no}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
