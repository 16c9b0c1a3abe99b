"""`import bertcompress.auto` registers the classes of edited models with the Auto classes.

After it, `AutoModelForSequenceClassification.from_pretrained(folder)` and `pipeline(...,
model=folder)` load what this package saved, without `trust_remote_code`.
"""

from __future__ import annotations

import transformers

from bertcompress.shapes.families import FAMILIES
from bertcompress.shapes.families.anatomy import family_named
from bertcompress.shapes.modeling import AUTO_CLASSES, compressed_class, compressed_config

__all__: list[str] = []


def _register() -> None:
    for family in map(family_named, FAMILIES):
        config = compressed_config(family.name)
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        for auto, ending in AUTO_CLASSES.items():
            stock = family.stock_class(ending)
            if stock is not None:
                getattr(transformers, auto).register(config, compressed_class(stock), exist_ok=True)


_register()
