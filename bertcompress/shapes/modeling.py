"""Config and model classes of an edited model: `Compressed<StockName>` for each family and head.

They have the stock tensor names and a `model_type` of their own, so that plain transformers refuses
them with a clear error instead of filling the other shapes with random weights. Saved with their
source (`auto_map`), they load anywhere with `trust_remote_code=True`.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bertcompress.shapes.edits import Edit, edited, read_record, record_edit, replay
from bertcompress.shapes.families import FAMILIES, SHIPPED
from bertcompress.shapes.families.anatomy import anatomy, family_named, family_of
from bertcompress.shapes.families.family import Family
from bertcompress.shapes.families.views import ShapeError
from bertcompress.shapes.masked import weights_of
from bertcompress.shapes.sharing import shared_names

__all__ = [
    "AUTO_CLASSES",
    "apply_edit",
    "bundle_source",
    "compressed_class",
    "compressed_config",
    "resume_record",
    "working_form",
]

SOURCE_NAME = "modeling_bertcompress"
FIRST = ("parts", "families/views")
LAST = (
    "families/anatomy",
    "cutting",
    "hidden",
    "vocabulary",
    "lowrank",
    "weight_format",
    "lowbit",
    "masked",
    "sharing",
    "edits",
    "modeling",
)
"""The files of this folder that are shipped with a model, in the order of their imports: before and
after those of its family."""

AUTO_CLASSES = {
    "AutoModel": "Model",
    "AutoModelForMaskedLM": "ForMaskedLM",
    "AutoModelForMultipleChoice": "ForMultipleChoice",
    "AutoModelForQuestionAnswering": "ForQuestionAnswering",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
    "AutoModelForTokenClassification": "ForTokenClassification",
}
"""Each Auto class and how the stock class of a family that it returns ends."""


class ShippedConfig:
    """Writes the source of the model classes beside itself, however the model is saved.

    In the config and not in the model, since `save_pretrained(push_to_hub=True)` uploads what is
    there when the config and the weights are written.
    """

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the config and the one source file that loads what lies beside it."""
        self.auto_map = auto_map(family_of(self).name)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        source = bundle_source(family_of(self).name)
        (folder / f"{SOURCE_NAME}.py").write_text(source, encoding="utf-8")
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]


def compressed_config(family: str) -> Any:
    """Return `Compressed<Prefix>Config` of a family by its name; one class for each family."""
    return _config_class(type(family_named(family)))


@functools.cache
def _config_class(family: type[Family]) -> type:
    prefix = family.stock_prefix
    body = {
        "model_type": f"bertcompress-{family.name}",
        "__module__": __name__,
        "__doc__": f"A {prefix}Config (of the original shape) with the record of what was edited.",
    }
    return type(f"Compressed{prefix}Config", (ShippedConfig, family().stock_class("Config")), body)


_WORKING_FORM: ContextVar[bool] = ContextVar("working_form", default=False)


@contextmanager
def working_form() -> Iterator[None]:
    """Let models be saved as our class in this block, so that they come back as they were."""
    token = _WORKING_FORM.set(True)
    try:
        yield
    finally:
        _WORKING_FORM.reset(token)


def _stock_form(model: Any, state: Any) -> Any:
    """Return the model as a stock class; None where none holds it, or where that is not known.

    `state`: a Trainer's, which it reads back into this very model: names may not change then.
    """
    if not __name__.startswith("bertcompress."):  # shipped beside a model
        return None
    # By name: a shipped file holds no such module.
    stock = importlib.import_module("bertcompress.shapes.stock").to_stock(model)
    if stock is model or (state is not None and {*stock.state_dict()} != {*state}):
        return None
    return stock


class CompressedMixin:
    """Builds the plain model and replays the record."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        replay(self)  # type: ignore[arg-type]
        declare_shared(self)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the model; where a stock class holds its shape exactly, as that class.

        Inside `working_form`, and where bertcompress is not installed, as our class.
        """
        stock = None if _WORKING_FORM.get() else _stock_form(self, kwargs.get("state_dict"))
        save = super().save_pretrained if stock is None else stock.save_pretrained  # type: ignore[misc]
        save(save_directory, *args, **kwargs)

    def masked_weights(self) -> dict[str, Tensor]:
        """Return the weights of the linears that the record counts zeros of, by module name."""
        masked = read_record(self.config).get("masked")  # type: ignore[attr-defined]
        return weights_of(self, masked) if masked and masked.simulated else {}  # type: ignore[arg-type]

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Return what is tied, for transformers 5: shared parts whatever the config says."""
        tied: dict[str, str] = super().get_expanded_tied_weights_keys(all_submodels)  # type: ignore[misc]
        return {**tied, **getattr(self, "_shared_names", {})}


def auto_map(family: str) -> dict[str, str]:
    """Return the `auto_map` of a config: which class of the source file each Auto class takes."""
    shown = family_named(family)
    names = {
        auto: f"{SOURCE_NAME}.Compressed{shown.stock_prefix}{ending}"
        for auto, ending in AUTO_CLASSES.items()
        if shown.stock_class(ending) is not None
    }
    return {"AutoConfig": f"{SOURCE_NAME}.Compressed{shown.stock_prefix}Config", **names}


def compressed_class(stock: type) -> type:
    """Return `Compressed<StockName>` for a stock model class; one class for each."""
    name = stock.__name__.removeprefix("Compressed")
    found = _stock(name)
    if found is None:
        raise ShapeError(
            f"{name} is not a model class of a supported family: {', '.join(FAMILIES)}"
        )
    return _model_class(*found)


def _stock(name: str) -> tuple[type[Family], type] | None:
    """Return the family that has a stock class of this name, and the class."""
    for family in map(family_named, FAMILIES):
        if name.startswith(family.stock_prefix):
            stock = family.stock_class(name.removeprefix(family.stock_prefix))
            if stock is not None:
                return type(family), stock
    return None


@functools.cache
def _model_class(family: type[Family], stock: type) -> type:
    body = {
        "config_class": _config_class(family),
        "__module__": __name__,
        "__doc__": f"`{stock.__name__}` with the edits that its config records.",
    }
    return type(f"Compressed{stock.__name__}", (CompressedMixin, stock), body)


def __getattr__(name: str) -> Any:
    """Make the classes on demand: importing all families at once takes a second."""
    found = _stock(name.removeprefix("Compressed")) if name.startswith("Compressed") else None
    if found is None:
        raise AttributeError(name)
    family, stock = found
    return _config_class(family) if name.endswith("Config") else _model_class(family, stock)


def declare_shared(model: Any) -> None:
    """Tell transformers, in place, which names stand for one parameter, so that one is saved.

    By name and not by `post_init`, which on 4.57 would draw the weights anew.
    """
    names = shared_names(model)
    if hasattr(model, "all_tied_weights_keys"):  # transformers 5
        model._shared_names = names
        model._tied_weights_keys = {**(type(model)._tied_weights_keys or {}), **names}
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    else:
        model._dynamic_tied_weights_keys = [f"^{re.escape(name)}$" for name in names]


def apply_edit(model: nn.Module, edit: Edit) -> nn.Module:
    """Edit a model in place, record the edit in its config, and return the model.

    From that moment it is of our class. Raises ShapeError, before anything is changed, where the
    model cannot take the edit.
    """
    view = anatomy(model)
    edit.check(view)
    ours: Any = compressed_class(type(model))
    record_edit(view.config, edit, view)
    edit.apply(view)
    return _of_our_class(model, ours)


def resume_record(model: nn.Module) -> nn.Module:
    """Give a stock model, in place, the class that knows the record in its config; return it.

    Of the edits that a stock class holds only zeros are recorded. Raises ShapeError for a record
    that is not of this model.
    """
    if edited(model) and not isinstance(model, CompressedMixin):
        view = anatomy(model)
        for kind, edit in read_record(view.config).items():
            if kind != "masked":
                raise ShapeError(f"{kind}: recorded of a stock class, which has its own shape")
            cast(Edit, edit).check(view)
        _of_our_class(model, compressed_class(type(model)))
    return model


def _of_our_class(model: Any, ours: Any) -> nn.Module:
    # In place, since submodules hold references to the same config object.
    model.config.__class__ = compressed_config(family_of(model.config).name)
    model.__class__ = ours
    declare_shared(model)
    if ours.__name__.endswith("Model"):
        _known_to_transformers(ours, model.config)
    return cast(nn.Module, model)


_KNOWN: set[type] = set()


def _known_to_transformers(cls: Any, config: Any) -> None:
    """Build a class once, without weights: transformers notes then which outputs it can record.

    Without that an encoder of this class would leave out the hidden states that it is asked for.
    """
    if cls in _KNOWN:
        return
    _KNOWN.add(cls)
    with torch.device("meta"):
        cls(copy.deepcopy(config))


@functools.cache
def bundle_source(family: str) -> str:
    """Return the one source file that is shipped with a model of a family: modules joined.

    One file, since transformers 4.57 copies only the direct relative imports of a local folder. A
    model that was itself loaded from a shipped file passes that file on.
    """
    if family in SHIPPED:
        return SHIPPED[family]
    here = Path(__file__)
    imports: dict[str, set[str]] = {}
    bodies: list[str] = []
    cls = type(family_named(family))
    for file in [*_files(here.parent, FIRST), *_family_files(cls)]:
        _split(file.read_text(encoding="utf-8"), imports, bodies)
    bodies.append(_TABLES.format(family=family, cls=cls.__name__, line=FAMILIES[family][1]))
    for file in _files(here.parent, LAST):
        _split(file.read_text(encoding="utf-8"), imports, bodies)
    head = '"""Written by bertcompress: loads the model beside this file. Do not edit."""\n\n'
    lines = [f"import {name}" for name in sorted(imports.pop("", set()))]
    lines += [
        f"from {place} import {', '.join(sorted(imports[place]))}" for place in sorted(imports)
    ]
    future = "from __future__ import annotations\n\n"
    return head + future + "\n".join(lines + bodies) + "\n"


_TABLES = """

# Older transformers run the files of two models in one module, where both models live on.
FAMILIES = {{**globals().get("FAMILIES", {{}}), "{family}": (f"{{__name__}}:{cls}", {line!r})}}
SHIPPED = {{
    **globals().get("SHIPPED", {{}}),
    "{family}": Path(__file__).read_text(encoding="utf-8"),
}}"""
"""The tables of `shapes/families/__init__.py`, in a shipped file."""


def _files(folder: Path, stems: Iterable[str]) -> list[Path]:
    return [folder / f"{stem}.py" for stem in stems]


def _family_files(family: type[Family]) -> list[Path]:
    """Return the files of a family's class and of those that it inherits from, the base first."""
    classes = [cls for cls in reversed(family.__mro__) if issubclass(cls, Family)]
    return [*dict.fromkeys(Path(inspect.getfile(cls)) for cls in classes)]


def _split(text: str, imports: dict[str, set[str]], bodies: list[str]) -> None:
    """Sort the top level of a module into imports from outside and everything else."""
    lines = [line.encode() for line in text.split("\n")]
    for i, node in enumerate(ast.parse(text).body):
        source = _source(lines, node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            place = getattr(node, "module", None) or ""
            if not place.startswith(("bertcompress", "__future__")):
                imports.setdefault(place, set()).update(alias.name for alias in node.names)
        elif not (i == 0 and isinstance(node, ast.Expr)) and "__all__" not in source[:9]:
            decorators = getattr(node, "decorator_list", [])
            marks = "".join(f"@{_source(lines, each)}\n" for each in decorators)
            bodies.append(f"\n\n{marks}{source}" if "\n" in source else f"\n{source}")


def _source(lines: list[bytes], node: Any) -> str:
    """Return the text of a node; `ast.get_source_segment` splits the whole module for each."""
    found = lines[node.lineno - 1 : node.end_lineno]
    found[-1] = found[-1][: node.end_col_offset]
    found[0] = found[0][node.col_offset :]
    return b"\n".join(found).decode()
