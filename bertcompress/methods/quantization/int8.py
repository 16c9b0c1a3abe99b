"""Post-training int8 files for the runtimes that execute int8.

The fp32 model is exported to ONNX, then quantised once per runtime, since the artefact must match
the runtime: dynamic int8 with per-channel weights for ONNX Runtime (no calibration), static int8
through NNCF for OpenVINO (activation ranges from a few hundred training rows). Embeddings are
quantised too. After Zafrir et al. 2019, "Q8BERT" (1910.06188), whose post-training baseline this
is.

Costs seconds to a minute and no training. Four times smaller, and faster wherever the processor has
int8 instructions. Not for models that lose more than you allow: then train with quantisation.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from bertcompress.artefact import Deployment, Product
from bertcompress.data import numpy_batches
from bertcompress.errors import MissingExtra
from bertcompress.method import Context, Method
from bertcompress.runtimes import Batch

__all__ = ["QuantizeInt8", "available_runtimes", "quantize_int8"]

Runtime = Literal["onnxruntime", "openvino"]


def available_runtimes() -> list[Runtime]:
    """Return the int8 runtimes that are installed; raises MissingExtra where there is none."""
    needs: dict[Runtime, tuple[str, ...]] = {
        "onnxruntime": ("onnx", "onnxruntime"),
        "openvino": ("onnx", "openvino", "nncf"),
    }
    found = [
        runtime
        for runtime, packages in needs.items()
        if all(importlib.util.find_spec(package) for package in packages)
    ]
    if not found:
        raise MissingExtra("onnxruntime", "onnx")
    return found


class QuantizeInt8(Method):
    """Post-training int8 files for ONNX Runtime and OpenVINO."""

    key: ClassVar[str] = "quantize_int8"
    paper: ClassVar[str] = "Zafrir et al. 2019, arXiv:1910.06188"
    kind: ClassVar[Literal["train", "shape", "precision"]] = "precision"
    speeds_up: ClassVar[bool] = True

    runtimes: tuple[Runtime, ...] = Field(
        (), description="Runtimes to make files for; empty: all that are installed"
    )
    rows: int = Field(
        300, ge=1, le=2_048, description="Calibration rows for static int8, of the training set"
    )

    def check(self, model: nn.Module) -> None:
        """Raise MissingExtra for a runtime that is not installed: before the hours of training."""
        found = available_runtimes()
        for runtime in self.runtimes:
            if runtime not in found:
                raise MissingExtra(runtime, "onnx" if runtime == "onnxruntime" else "openvino")

    def apply(self, product: Product, ctx: Context) -> Product:
        """Return the product with an fp32 ONNX file and one int8 file per runtime."""
        chosen = self.runtimes or tuple(available_runtimes())
        calibration = self._calibration(product, ctx) if "openvino" in chosen else []
        deployments = quantize_int8(product, ctx.workdir, chosen, calibration)
        facts = {"samples": len(calibration)}
        return Product(product.model, product.tokenizer, tuple(deployments), facts)

    def _calibration(self, product: Product, ctx: Context) -> list[Batch]:
        rows = ctx.data.encode(product.tokenizer, "calibration")
        rows = rows.select(range(min(self.rows, len(rows))))
        # One row per batch: padding would enter the ranges of the activations.
        return [batch for _, batch in numpy_batches(rows, product.tokenizer, 1)]


def quantize_int8(
    product: Product, folder: Path, runtimes: tuple[Runtime, ...], calibration: list[Batch]
) -> list[Deployment]:
    """Write `onnx/` and `openvino/` under a folder, and return what can be deployed from them."""
    from bertcompress.runtimes import onnxruntime, openvino

    made = [onnxruntime.export(product, folder / "onnx")]
    if "onnxruntime" in runtimes:
        made.append(onnxruntime.quantize(folder / "onnx", calibration))
    if "openvino" in runtimes:
        made.append(openvino.quantize(folder / "onnx", calibration, out=folder / "openvino"))
    return made
