"""`import bertcompress.auto` registers the classes of edited models with the Auto classes.

After it, `AutoModelForSequenceClassification.from_pretrained(folder)` and `pipeline(...,
model=folder)` load what this package saved, without `trust_remote_code`.
"""

from __future__ import annotations

import transformers

from bertcompress.shapes.modeling import AUTO_CLASSES, CONFIGS, compressed_class

__all__: list[str] = []


def _register() -> None:
    for family, config in CONFIGS.items():
        transformers.AutoConfig.register(f"bertcompress-{family}", config, exist_ok=True)
        prefix = config.__name__.removeprefix("Compressed").removesuffix("Config")
        for auto, ending in AUTO_CLASSES.items():
            stock = getattr(transformers, f"{prefix}{ending}", None)
            if stock is not None:
                getattr(transformers, auto).register(config, compressed_class(stock), exist_ok=True)


_register()
