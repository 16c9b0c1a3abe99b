"""PyTorch as a runtime: its facts, which need no torch. What computes is in `torch.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bertcompress.deployment import Layout, precision_name
from bertcompress.models.config_fields import lowbit_widths, read_fields_of
from bertcompress.models.recognising import encoder_folder
from bertcompress.runtimes.runtime import DYNAMIC, Artefact, Predictor, Runtime, RuntimeFile

if TYPE_CHECKING:
    from bertcompress.deployment import Deployment, Product

__all__ = ["TorchRuntime"]

_RUN = Layout()


class TorchRuntime(Runtime):
    """Runs model folders: the working form of every stage, in fp32, bf16, or few bits."""

    name: ClassVar[str] = "torch"
    engine: ClassVar[str] = "torch"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    files: ClassVar[Mapping[str, RuntimeFile]] = {
        "fp32": RuntimeFile(_RUN.model, 0),
        "bf16": RuntimeFile(_RUN.bf16, 0),
    }
    suffix: ClassVar[str | None] = None
    batch_dependent: ClassVar[frozenset[str]] = frozenset()
    colour: ClassVar[tuple[str, str]] = ("#0072B2", "#56B4E9")
    marker: ClassVar[str] = "o"

    def export(self, product: Product, folder: Path) -> Deployment:
        """Write the product as safetensors, config and tokenizer."""
        from bertcompress.runtimes import torch

        return torch.export(product, folder / self.files["fp32"].path)

    def open(
        self,
        path: str | Path,
        *,
        precision: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        serving: str = DYNAMIC,
        max_length: int | None = None,
        limit: int | None = None,
    ) -> Predictor:
        """Return the model of a folder or Hub id; None of a precision is fp32."""
        from bertcompress.runtimes import torch

        return torch.predictor(path, threads, precision or "fp32", device)

    def load_libraries(self) -> None:
        """Import torch, transformers, and what opens a model."""
        from bertcompress.runtimes import torch  # noqa: F401

    def synchronise(self, device: str) -> None:
        """Wait for a GPU."""
        if device != "cpu":
            import torch

            torch.cuda.synchronize(device)

    def artefacts(self, place: Path) -> Iterator[Artefact]:
        """Yield the model of a folder: a plain one, a run's, or that of sentence-transformers."""
        for folder in (place, Layout(place).model, encoder_folder(place)):
            if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
                yield Artefact(self.name, _stored(folder), folder, self.files["fp32"].choice)
                break

    def serves(self, held: str, wanted: str | None, *, named: bool) -> bool:
        """Return whether it is what was asked for, or what PyTorch converts to on loading.

        It refuses by itself what it cannot convert.
        """
        return named or wanted == "bf16" or super().serves(held, wanted, named=named)

    def downloads(self, precision: str | None, *, named: bool) -> Iterator[tuple[int, str]]:
        """Yield the weights at the top of a repository, where they serve."""
        if self.serves("fp32", precision, named=named):
            yield self.files["fp32"].choice, self.weight_pattern("")

    def weight_pattern(self, inside: str) -> str:
        """Return the pattern of the weights: on the Hub they lie at the top."""
        return "*.safetensors"


def _stored(folder: Path) -> str:
    """Return in what the weights of a model folder are stored, by the record in its config."""
    fields = read_fields_of(folder / "config.json", str(folder))
    return precision_name(lowbit_widths(fields, str(folder)))
