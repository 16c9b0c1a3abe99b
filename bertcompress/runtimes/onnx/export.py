"""Writes a product as one ONNX file in the layout that `optimum` opens; shared by two runtimes."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertcompress.deployment import Product
from bertcompress.errors import ModelError
from bertcompress.models.io import write_companions
from bertcompress.models.sentence import POOLING
from bertcompress.models.tokenizers import position_limit, write_tokenizer
from bertcompress.runtimes import INPUTS, MODEL_FILE, Batch, require
from bertcompress.runtimes.onnx.graph import check_size, merged, share, share_transposed
from bertcompress.shapes.stock import plain_config

__all__ = ["OUTPUTS", "TOLERANCE", "Exporter", "Integers", "companions", "export_onnx", "task_of"]

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference to torch allowed, per unit of the largest output (at least 1)."""

OUTPUTS = {
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "multiple-choice": ("logits",),
    "fill-mask": ("logits",),
    "feature-extraction": ("last_hidden_state",),
}
"""Output names by optimum task, named as optimum names them."""

Exporter = Literal["torchscript", "dynamo"]


@dataclass(frozen=True)
class Integers:
    """How a model that is stored in few bits is written."""

    model: PreTrainedModel
    """The same model, of modules that say what nodes they become."""
    file: str
    domains: Mapping[str, int]
    """Operators that are not ONNX' own: domain and version."""
    tolerance: float
    """Largest difference to torch, per unit of the largest output (at least 1)."""


def export_onnx(
    product: Product,
    folder: Path,
    exporter: Exporter = "torchscript",
    integers: Integers | None = None,
) -> Path:
    """Write `folder/model.onnx` with tokenizer and the plain family's config; return the file.

    Batch and length stay free. The file is run beside torch on a few shapes before it is returned.
    TorchScript is the default since it is quicker, fuses best and knows fake quantisation.

    Args:
        product: What is written.
        folder: Where to.
        exporter: Of torch.
        integers: What is written instead, and has to answer as the product does.

    Raises:
        ModelError for a head that is not known here, or where the file answers other than torch.
        MissingExtra without onnx and onnxruntime.
    """
    onnx = require("onnx", "onnx")
    check_size(product.model)
    if exporter == "dynamo":
        require("onnxscript", "onnx")
    names = _input_names(product.model, product.tokenizer)
    task = task_of(product.model)
    graph = _Graph(_export_copy(product.model), names, OUTPUTS[task]).eval()
    written, file = graph, folder / MODEL_FILE
    if integers:
        written = _Graph(_export_copy(integers.model), names, OUTPUTS[task]).eval()
        file = folder / integers.file
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet(), torch.no_grad():
        _write(written, file, task, exporter, integers.domains if integers else {})
    proto = onnx.load(file)
    share(proto)
    share_transposed(proto)
    if integers:
        proto = merged(proto)
    onnx.save(proto, file)
    _check(graph, file, task, integers.tolerance if integers else None)
    write_tokenizer(product.tokenizer, folder)
    plain_config(product.model).save_pretrained(folder)
    write_companions(product.model, product.tokenizer, folder)
    return file


def task_of(model: PreTrainedModel) -> str:
    """Return the optimum task of a model's head; raises ModelError for one not in `OUTPUTS`."""
    from optimum.exporters.tasks import TasksManager

    stock = _stock_name(model)
    try:
        task = TasksManager.infer_task_from_model(
            getattr(transformers, stock), library_name="transformers"
        )
    except (AttributeError, ValueError) as error:
        raise ModelError(f"{stock}: not a model class that can be exported") from error
    if task not in OUTPUTS:
        raise ModelError(f"{stock}: cannot export '{task}'; allowed: {', '.join(OUTPUTS)}")
    return str(task)


def companions(source: Path, target: Path) -> None:
    """Copy what lies beside an ONNX file (tokenizer, config, pooling) to another folder."""
    target.mkdir(parents=True, exist_ok=True)
    for each in source.iterdir():
        if each.name == POOLING:
            shutil.copytree(each, target / POOLING, dirs_exist_ok=True)
        elif each.is_file() and each.suffix != ".onnx":
            shutil.copy2(each, target / each.name)


class _Graph(nn.Module):
    """A model with tensors in, in the order of `names`, and a tuple of tensors out."""

    def __init__(
        self, model: PreTrainedModel, names: Sequence[str], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.outputs = tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the model."""
        answer = self.model(**dict(zip(self.names, tensors, strict=True)), return_dict=True)
        return tuple(answer[name] for name in self.outputs)


def _stock_name(model: PreTrainedModel) -> str:
    return type(model).__name__.removeprefix("Compressed")


def _input_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    taken = inspect.signature(model.forward).parameters
    given = {*tokenizer.model_input_names, "input_ids", "attention_mask"}
    return [name for name in INPUTS if name in taken and name in given]


def _export_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy, so that neither train mode nor attention kind nor device of the caller's changes."""
    ours: Any = copy.deepcopy(model)
    ours.float().cpu().eval()
    # Eager attention gives the graph that fuses best. transformers 4.57 fixes the kind by class
    # when a model is built; there the config must go on saying what the modules are.
    if not any("Sdpa" in type(module).__name__ for module in ours.modules()):
        ours.config._attn_implementation = "eager"
    return ours  # type: ignore[no-any-return]


def _write(
    graph: _Graph, file: Path, task: str, exporter: Exporter, domains: Mapping[str, int]
) -> None:
    axes = _axes(task)
    shape = (2,) * (len(axes) - 1) + (8,)
    # One tensor each: dynamo takes the same tensor given twice for one input.
    example = tuple(torch.ones(shape, dtype=torch.long) for _ in graph.names)
    common: dict[str, Any] = {
        "input_names": list(graph.names),
        "output_names": list(graph.outputs),
        "opset_version": OPSET,
    }
    if exporter == "dynamo":
        common |= {"dynamic_shapes": ((axes,) * len(graph.names),), "external_data": False}
        common["verbose"] = False
    else:
        common["dynamic_axes"] = {
            **dict.fromkeys(graph.names, axes),
            **dict.fromkeys(graph.outputs, _output_axes(task)),
        }
        common["custom_opsets"] = dict(domains)
    torch.onnx.export(graph, example, file, dynamo=exporter == "dynamo", **common)


def _axes(task: str) -> dict[int, str]:
    if task == "multiple-choice":
        return {0: "batch", 1: "num_choices", 2: "sequence"}
    return {0: "batch", 1: "sequence"}


def _output_axes(task: str) -> dict[int, str]:
    if task == "multiple-choice":
        return {0: "batch", 1: "num_choices"}
    return {0: "batch"} if task == "text-classification" else {0: "batch", 1: "sequence"}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters: tracing warns of every shape that it follows."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check(graph: _Graph, file: Path, task: str, tolerance: float | None) -> None:
    """Raise ModelError unless ONNX Runtime answers as torch does, padding included.

    `tolerance`: of a file of integers; None for one in floats.
    """
    ort = require("onnxruntime", "onnx")
    options = ort.SessionOptions()
    if tolerance is not None:  # optimised, it may round inputs where nothing else does
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    allowed = TOLERANCE if tolerance is None else tolerance
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    for batch in _examples(graph, task):
        answers = session.run(list(graph.outputs), dict(batch))
        with torch.no_grad():
            wanted = graph(*(torch.from_numpy(batch[name]) for name in graph.names))
        for name, got, tensor in zip(graph.outputs, answers, wanted, strict=True):
            want = tensor.numpy()
            off = float(np.abs(got - want).max()) if got.shape == want.shape else float("inf")
            if not off <= allowed * max(1.0, float(np.abs(want).max())):
                raise ModelError(
                    f"{file}: output '{name}' differs from torch by {off:.1e} at input shape "
                    f"{batch['input_ids'].shape}; {allowed:.0e} is allowed"
                )


def _examples(graph: _Graph, task: str) -> Iterator[Batch]:
    random = np.random.default_rng(0)
    config = graph.model.config
    table = graph.model.get_input_embeddings()
    words = int(getattr(table, "num_embeddings", config.vocab_size))
    longest = position_limit(config)
    choices = () if task != "multiple-choice" else (3,)
    for rows, length in ((1, 1), (1, 7), (3, 20), (2, 64)):
        shape = (rows, *choices, min(length, longest))
        ids = random.integers(5, words, shape) if words > 5 else np.zeros(shape, np.int64)
        mask = np.ones(shape, np.int64)
        mask[0, ..., (shape[-1] + 1) // 2 :] = 0
        ids[mask == 0] = config.pad_token_id or 0
        types = np.zeros(shape, np.int64)
        if int(getattr(config, "type_vocab_size", 1)) > 1:
            types[..., shape[-1] // 3 :] = 1
        everything = dict(zip(INPUTS, (ids, mask, types), strict=True))
        yield {name: everything[name] for name in graph.names}
