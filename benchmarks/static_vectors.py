"""Our static word vectors of an embedder beside model2vec's, on the same texts.

    pip install "model2vec[distill]"
    python benchmarks/static_vectors.py corpus.txt [--model embedded:minilm-l6] [--rows 400]

A text a line; the last rows judge, and what comes before them tells how frequent tokens are (of
ours alone: model2vec takes Zipf's law). Judged by how many of the ten nearest rows are those of the
model itself, and by the correlation of the cosines. Prints a table; without model2vec, ours alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32


def main() -> None:
    """Distil both and print what they score."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("texts", type=Path)
    parser.add_argument("--model", default="embedded:minilm-l6")
    parser.add_argument("--rows", type=int, default=400)
    given = parser.parse_args()
    texts = [line for line in given.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    train, test = texts[: -given.rows], texts[-given.rows :]
    product, pooling = opened(given.model)
    original = whole(product, pooling, test)
    print(f"{'vectors':12} {'neighbours':>10} {'cosine':>8} {'MB':>8} {'seconds':>8}")
    for name, make in (("ours", ours), ("model2vec", theirs)):
        if name == "model2vec" and importlib.util.find_spec("model2vec") is None:
            print("model2vec    is not installed")
            continue
        started = time.perf_counter()
        encode, megabytes = make(product, pooling, train)
        seconds = time.perf_counter() - started
        near, alike = judged(encode(test), original)
        print(f"{name:12} {near:10.3f} {alike:8.3f} {megabytes:8.1f} {seconds:8.0f}")


def opened(name: str) -> tuple[Any, Any]:
    """Return a model, and how it pools."""
    from bertcompress.models.io import load
    from bertcompress.models.locate import locate
    from bertcompress.models.sentence import settled_pooling

    product = load(name)
    pooling, _ = settled_pooling(product.model.config, locate(name), name)
    return product, pooling


def whole(product: Any, pooling: Any, texts: list[str]) -> Any:
    """Return the vectors of the model itself. Shape: (N, H)."""
    from bertcompress.runtimes.torch import TorchPredictor

    answer, found = TorchPredictor(product.model), []
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        batch = dict(product.tokenizer(part, padding=True, truncation=True, return_tensors="np"))
        states, masks = answer(batch), batch["attention_mask"]
        found += [
            pooling.vector(each[: mask.sum()]) for each, mask in zip(states, masks, strict=True)
        ]
    return np.stack(found)


def ours(product: Any, pooling: Any, train: list[str]) -> tuple[Any, float]:
    """Return a function from texts to our vectors, and the megabytes of the table."""
    from bertcompress.engines.static_vectors import static_vectors

    tokenizer = product.tokenizer
    ids = tokenizer(train, add_special_tokens=False)["input_ids"]
    found = static_vectors(product, tokenizer, Counter(i for row in ids for i in row), pooling)

    def encode(texts: list[str]) -> Any:
        return found(dict(tokenizer(texts, padding=True, return_tensors="np")))

    return encode, found.table.nbytes / 1e6


def theirs(product: Any, pooling: Any, train: list[str]) -> tuple[Any, float]:
    """Return the same of model2vec with its defaults; the texts play no part."""
    from model2vec.distill import distill_from_model

    found = distill_from_model(product.model, product.tokenizer)
    return found.encode, found.embedding.nbytes / 1e6


def judged(vectors: Any, original: Any) -> tuple[float, float]:
    """Return the share of neighbours that stay, and the correlation of the cosines."""
    from bertcompress.metrics.ranking import cosine_rows, neighbour_rows

    return tuple(float(rows(vectors, original)[:, 0].mean())
                 for rows in (neighbour_rows, cosine_rows))  # type: ignore[return-value] # fmt: skip


if __name__ == "__main__":
    main()
