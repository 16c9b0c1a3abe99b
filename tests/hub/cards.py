"""Which metadata of a card the Hub refuses."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["front_matter", "problems"]

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")
RELATIONS = {"adapter", "finetune", "merge", "quantized"}
LICENSES = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0",
    "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc0-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m", "ecl-2.0",
    "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gemma", "gfdl", "gpl", "gpl-2.0",
    "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3", "mit",
    "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++", "osl-3.0",
    "other", "pddl", "postgresql", "unknown", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
PIPELINES = {
    "feature-extraction", "fill-mask", "multiple-choice", "question-answering",
    "sentence-similarity", "text-classification", "text-ranking", "token-classification",
    "zero-shot-classification",
}  # fmt: skip


def front_matter(card: str) -> Any:
    """Return what stands between the two `---` at the top, or an empty mapping."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---(\r?\n|\Z)", card, re.S)
    return (yaml.safe_load(found[1]) if found else None) or {}


def problems(card: str) -> list[str]:
    """Return why a card is refused, one sentence each."""
    try:
        data = front_matter(card)
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"]
    if not isinstance(data, dict):
        return ["YAML Metadata Error: must be a mapping"]
    found = [f'"{key}" {wrong}' for key, wrong in _fields(data)]
    return found + list(_index(data.get("model-index")))


def _fields(data: dict[str, Any]) -> Any:
    lists = {"tags": str, "metrics": str, "datasets": REPOSITORY, "language": LANGUAGE}
    for key, of in {**lists, "base_model": REPOSITORY, "license": LICENSES}.items():
        value = data.get(key)
        single = key in ("base_model", "license", "language") and isinstance(value, str)
        each = [value] if single else value
        if value is None:
            continue
        if not isinstance(each, list) or not all(isinstance(item, str) for item in each):
            yield key, "must be an array of strings" if not single else "must be a string"
        elif isinstance(of, set) and not set(each) <= of:
            yield key, "must be one of the licenses that the Hub knows"
        elif isinstance(of, re.Pattern) and not all(of.fullmatch(item) for item in each):
            yield key, f"with value {value!r} is not valid"
    for key, allowed in (("pipeline_tag", PIPELINES), ("base_model_relation", RELATIONS)):
        if data.get(key) is not None and data[key] not in allowed:
            yield key, f"must be one of {', '.join(sorted(allowed))}"
    if data.get("base_model_relation") and not data.get("base_model"):
        yield "base_model_relation", "needs a base_model"
    if not isinstance(data.get("library_name", ""), str):
        yield "library_name", "must be a string"


def _index(index: Any) -> Any:
    if index is None:
        return
    if not isinstance(index, list) or not all(isinstance(model, dict) for model in index):
        yield '"model-index" must be an array of objects'
        return
    for number, model in enumerate(index):
        at = f"model-index[{number}]"
        if not isinstance(model.get("name"), str):
            yield f'"{at}.name" is required'
        for place, result in enumerate(model.get("results") or ()):
            yield from _result(f"{at}.results[{place}]", result)


def _result(at: str, result: dict[str, Any]) -> Any:
    for part, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
        for key in keys:
            if not isinstance((result.get(part) or {}).get(key), str):
                yield f'"{at}.{part}.{key}" is required'
    if not result.get("metrics"):
        yield f'"{at}.metrics" is required'
    for metric in result.get("metrics") or ():
        if not isinstance(metric.get("type"), str) or not isinstance(
            metric.get("value"), int | float
        ):
            yield f'"{at}.metrics" need a type and a numeric value'
