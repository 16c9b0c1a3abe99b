"""Whether a model that exists answers a task: by the names of its classes, else by its score."""

from __future__ import annotations

from bertcompress.data import TaskData
from bertcompress.deployment import Product
from bertcompress.measure.scores import Score, predict, score
from bertcompress.runtimes.torch import scoring

__all__ = ["selection_headline"]


def selection_headline(product: Product, data: TaskData) -> Score | None:
    """Return the headline score of a model on the selection split.

    None where these rows have no such score. `data`: the rows as the model reads them.
    """
    with scoring(product.model) as predictor:
        answers = predict(
            predictor, data, "selection", product.tokenizer, config=product.model.config
        )
    rows = score(data.task, data, "selection", answers)
    return next((row for row in rows if row.headline), None)
