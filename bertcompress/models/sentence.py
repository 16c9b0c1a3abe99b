"""Folders of sentence-transformers: how their vectors are pooled, read and written.

`modules.json`, `1_Pooling/config.json`, `config_sentence_transformers.json` and
`sentence_bert_config.json` beside a model, as `SentenceTransformer(folder)` reads them. They are
written with the keys of its release 3, which later ones read too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bertcompress.errors import ModelError, few
from bertcompress.heads.pooling import MODES, Pooling
from bertcompress.models.recognising import MODULES, left_out_layers, read_json, sentence_modules

__all__ = [
    "POOLING",
    "activation_of",
    "drop_sentence_files",
    "read_pooling",
    "sentence_folder",
    "settled_pooling",
    "stated_pooling",
    "take_activation",
    "through_sigmoid",
    "write_modules",
    "write_sentence_files",
    "write_settings",
]

_SETTINGS = "config_sentence_transformers.json"
_KEPT = "sentence_transformers"
"""Field of a config in which a CrossEncoder keeps its settings, since release 4."""
_KEPT_BEFORE = "sbert_ce_default_activation_function"
"""Field of releases before 4."""
_LENGTH = "sentence_bert_config.json"
_OLD_LENGTHS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names that releases before 3 gave the file by the family of the model."""
_EMBEDDER = "SentenceTransformer"
"""What a folder that pools says that it is (`model_type`), where it says anything."""
POOLING = "1_Pooling"
"""Folder of the module that pools."""
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of releases before 6, in the order in which several are joined."""
_TYPES = {
    "Transformer": "sentence_transformers.models.Transformer",
    "Pooling": "sentence_transformers.models.Pooling",
    "Normalize": "sentence_transformers.models.Normalize",
    "StaticEmbedding": "sentence_transformers.models.StaticEmbedding",
}


def sentence_folder(folder: Path) -> Path | None:
    """Return the folder with `modules.json`: this one or the one above it; None for neither."""
    return next((each for each in (folder, folder.parent) if sentence_modules(each)), None)


def read_pooling(folder: Path, name: str) -> Pooling | None:
    """Return how a sentence-transformers folder makes vectors; None for a folder of another kind.

    `folder`: where the encoder lies. Raises ModelError for what cannot be carried over: trained
    layers behind the encoder, several or unknown ways of pooling, prompts that are not pooled.
    """
    home = sentence_folder(folder)
    if home is None:
        return None
    where = f"model '{name}'"
    if layers := left_out_layers(folder):
        raise ModelError(
            f"{where}: trained layers lie behind its encoder, without which its vectors are others "
            f"({few(layers)}); only pooling and normalising can be carried over"
        )
    modules = {str(each.get("type")).rpartition(".")[2]: each for each in sentence_modules(home)}
    settings = _fields(home / _SETTINGS)
    kind = settings.get("model_type") or _EMBEDDER
    if kind != _EMBEDDER:
        raise ModelError(f"{where}: a {kind} of sentence-transformers, which pools no vectors")
    pooled = _fields(home / str(modules.get("Pooling", {}).get("path", POOLING)) / "config.json")
    prompts = settings.get("prompts") or {}
    if pooled.get("include_prompt", True) is False and any(prompts.values()):
        raise ModelError(
            f"{where}: its prompts are left out of the pooling (include_prompt), which nothing "
            "here does"
        )
    fields = {
        "mode": _mode(pooled, where),
        "normalize": "Normalize" in modules,
        "dimensions": settings.get("truncate_dim"),
        "prompts": prompts,
        "default_prompt": settings.get("default_prompt_name"),
        "similarity": settings.get("similarity_fn_name") or "cosine",
        "max_length": _declared(folder, home).get("max_seq_length"),
        "lowercase": bool(_declared(folder, home).get("do_lower_case")),
    }
    try:
        return Pooling.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelError(f"{where}: its sentence settings: {place}: {first['msg']}") from None


def stated_pooling(config: Any, folder: Path, name: str) -> Pooling | None:
    """Return how an encoder says that its vectors are pooled; None where it does not.

    What its folder says goes before what its config kept. Raises ModelError for a folder whose
    vectors cannot be carried over.
    """
    return read_pooling(folder, name) or Pooling.of(config)


def settled_pooling(
    config: Any, folder: Path, name: str, asked: Pooling | None = None
) -> tuple[Pooling, str | None]:
    """Return how an encoder's vectors are pooled, kept in its config in place, and a line on it.

    `asked`: by the task. The line says what was decided without being asked; None: nothing was.
    Raises ModelError for a folder whose vectors cannot be carried over.
    """
    known = asked or stated_pooling(config, folder, name)
    pooling = known or Pooling()
    pooling.keep(config)
    if known is not None:
        return pooling, _compared(pooling, name)
    return pooling, (
        f"model '{name}' does not say how its vectors are pooled: the mean of the tokens is taken, "
        "as sentence-transformers does; `pooling` in the task says otherwise"
    )


def take_activation(config: Any, folder: Path, name: str) -> None:
    """Keep in a config, in place, what a CrossEncoder's folder puts its scores through.

    Release 6 of sentence-transformers writes it beside config.json; every release reads it there.
    Raises ModelError for prompts, which neither scoring nor `serve.py` puts before texts.
    """
    settings = _fields((sentence_folder(folder) or folder) / _SETTINGS)
    if settings.get("model_type") != "CrossEncoder":
        return
    if used := [str(key) for key, text in _mapping(settings.get("prompts")).items() if text]:
        raise ModelError(
            f"model '{name}': a CrossEncoder with prompts ({few(used)}), which nothing here puts "
            f"before texts; where it answers without them, empty `prompts` in {_SETTINGS}"
        )
    if isinstance(stated := settings.get("activation_fn"), str):
        setattr(config, _KEPT, {**_mapping(getattr(config, _KEPT, None)), "activation_fn": stated})


def through_sigmoid() -> dict[str, Any]:
    """Return the fields of a config that say that scores are probabilities, as trained here."""
    return {_KEPT: {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}


def activation_of(config: Any) -> str | None:
    """Return the class of torch that a CrossEncoder's config puts scores through; None: not said.

    Such as `Identity`. Without it sentence-transformers takes `Sigmoid` for one output.
    """
    stated = _mapping(getattr(config, _KEPT, None)).get("activation_fn")
    stated = stated or getattr(config, _KEPT_BEFORE, None)
    return stated.rpartition(".")[2] if isinstance(stated, str) else None


def _compared(pooling: Pooling, name: str) -> str | None:
    """Return the line on vectors that are meant to be compared by something else than here."""
    if pooling.similarity == "cosine" or (pooling.normalize and pooling.similarity == "dot"):
        return None
    return (
        f"model '{name}' is meant to be compared by {pooling.similarity} "
        "(config_sentence_transformers.json), which its folder goes on to say; scores here are of "
        "the cosine"
    )


def _fields(path: Path) -> dict[str, Any]:
    return _mapping(read_json(path))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _mode(pooled: Mapping[str, Any], where: str) -> str:
    """Return the one way of pooling that a `1_Pooling/config.json` says; mean where it is silent.

    Raises ModelError for several, and for one that is not known.
    """
    written = pooled.get("pooling_mode")
    if written is None:
        found = [mode for key, mode in _FLAGS.items() if pooled.get(key)] or ["mean"]
    else:
        found = list(map(str, written)) if isinstance(written, list) else [str(written)]
    if len(found) > 1 or found[0] not in MODES:
        raise ModelError(
            f"{where}: pooled by {' and '.join(found)}; pooling is carried over of one of "
            f"{', '.join(MODES)}"
        )
    return found[0]


def _declared(folder: Path, home: Path) -> dict[str, Any]:
    """Return what the folder declares beside its tokenizer: the longest text, and lowercasing."""
    places = [at / name for at in (folder, home) for name in (_LENGTH, *_OLD_LENGTHS)]
    return next((fields for place in places if (fields := _fields(place))), {})


def write_sentence_files(
    folder: Path, pooling: Pooling, hidden: int, longest: int | None = None
) -> None:
    """Write beside a model, in place, what `SentenceTransformer(folder)` needs.

    `hidden`: width of the model's states; `longest`: tokens that the model and its tokenizer take.
    """
    kinds = ["Transformer", "Pooling", *(["Normalize"] if pooling.normalize else [])]
    limits = [each for each in (pooling.max_length, longest) if each]
    modes = {key: mode == pooling.mode for key, mode in _FLAGS.items()}
    pooled = {"word_embedding_dimension": hidden, **modes, "include_prompt": True}
    (folder / POOLING).mkdir(exist_ok=True)
    write_modules(folder, [(kind, f"{i}_{kind}" if i else "") for i, kind in enumerate(kinds)])
    _write(folder / POOLING / "config.json", pooled)
    write_settings(folder, pooling)
    length = min(limits) if limits else None
    _write(folder / _LENGTH, {"max_seq_length": length, "do_lower_case": pooling.lowercase})


def drop_sentence_files(folder: Path) -> None:
    """Remove what `write_sentence_files` wrote, of a folder whose file pools by itself."""
    for name in (MODULES, _SETTINGS, _LENGTH):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / POOLING, ignore_errors=True)


def write_modules(folder: Path, kinds: Sequence[tuple[str, str]]) -> None:
    """Write `modules.json`: each module by the name of its class and its place in the folder."""
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": _TYPES[kind]}
        for i, (kind, path) in enumerate(kinds)
    ]
    _write(folder / MODULES, modules)


def write_settings(folder: Path, pooling: Pooling) -> None:
    """Write what a folder says of its prompts, its dimensions and how vectors are compared."""
    settings: dict[str, Any] = {
        # Of the first release that knows these keys; a later number makes older ones warn.
        "__version__": {"sentence_transformers": "3.0.0"},
        # `encode_document` looks for no other name, and takes "" for the prompt of one that lacks.
        "prompts": pooling.named_prompts,
        "default_prompt_name": pooling.default_prompt,
        "similarity_fn_name": pooling.similarity,
    }
    if pooling.dimensions is not None:
        settings["truncate_dim"] = pooling.dimensions
    _write(folder / _SETTINGS, settings)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
