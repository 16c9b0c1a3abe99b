"""`Runtime`: where a model runs. Its files, devices, packages and verbs come from here.

Everything above asks a runtime and never its name. A runtime is one class in a file that imports
neither torch nor the runtime itself before a verb is called, and one line of `RUNTIMES`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bertcompress.errors import MissingExtra, ModelError

if TYPE_CHECKING:  # timing workers import this file and must not carry torch along
    from bertcompress.deployment import Deployment, Product

__all__ = [
    "DYNAMIC",
    "INPUTS",
    "Artefact",
    "Batch",
    "Logits",
    "Predictor",
    "Runtime",
    "RuntimeFile",
    "join_outputs",
    "require",
]

Batch = Mapping[str, NDArray[np.int64]]
"""`input_ids`, `attention_mask` and, for families that use them, `token_type_ids`. Shape: (B, T);
(B, choices, T) for multiple choice."""

Logits = NDArray[np.float32]
"""Shape: (B, K) for classification and regression, (B, T, K) per token, (B, T, 2) for start and end
of an answer, (B, T, H) for a bare model."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")

DYNAMIC = "dynamic"
"""The serving mode that every runtime has: any batch as it comes."""


@runtime_checkable
class Predictor(Protocol):
    """A loaded artefact: a batch in, logits out, in eval and inference mode, not warmed up."""

    runtime: str
    """A key of `RUNTIMES`."""
    precision: str
    """`fp32`, `bf16`, `int8` or `int4-8`."""

    def __call__(self, batch: Batch) -> Logits:
        """Return the logits. Shape: (B, T) -> (B, K)."""
        ...


@dataclass(frozen=True)
class RuntimeFile:
    """Where a run keeps what a runtime opens in one precision."""

    path: Path
    """Relative to the run's folder: a file, or the folder of a runtime that opens folders."""
    choice: int
    """Of all that a folder holds the lowest is opened, where nobody asks for another."""
    own: bool = True
    """Whether this runtime makes it; False: it reads what another one makes."""


@dataclass(frozen=True)
class Artefact:
    """Something in a folder that a runtime can open."""

    runtime: str
    precision: str
    path: Path
    choice: int
    """As in `RuntimeFile`."""


class Runtime(ABC):
    """One place where models run. Facts are class variables; verbs import what they need."""

    name: ClassVar[str]
    """Key in `RUNTIMES`, and what recipes, reports and command lines say."""
    extra: ClassVar[str | None] = None
    """Extra of this package that installs it; None: it comes with every installation."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Python packages that making its files needs, beside those of every installation."""
    engine: ClassVar[str]
    """The Python package that computes: other versions of it may answer and time otherwise."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    """Where it can compute."""
    serving: ClassVar[tuple[str, ...]] = (DYNAMIC,)
    """How it can be opened to serve texts. Modes beside `dynamic` pad single texts to a few
    lengths, for which the runtime is ready once it is open."""
    files: ClassVar[Mapping[str, RuntimeFile]]
    """Precision to what a run ships in it; one with `int8` makes int8 files."""
    suffix: ClassVar[str | None] = ".onnx"
    """Of the files that it opens; None: it opens model folders, and ids of the Hub."""
    portable: ClassVar[bool] = True
    """Whether its files run on other machines than the one that they were built on."""
    needs_rows: ClassVar[bool] = False
    """Whether its int8 is static: ranges of activations come from rows of the task."""
    packs_groups: ClassVar[bool] = False
    """Whether it computes with weights of 4 or 8 bits that have a scale for each group of them."""
    batch_dependent: ClassVar[frozenset[str]] = frozenset({"int8"})
    """Precisions in which an answer may change with the texts that are answered beside it."""
    loads_in: ClassVar[str | None] = None
    """What is needed to load its files, as reports say it; None: the model's class tells."""
    tags: ClassVar[tuple[str, ...]] = ()
    """Tags of the Hub for a repository that holds its files."""
    colour: ClassVar[tuple[str, str]]
    """Hexadecimal, in figures on light and on dark paper."""
    marker: ClassVar[str] = "^"
    """Of matplotlib."""

    def __init_subclass__(cls) -> None:
        """Raise TypeError for a class that lacks a fact which has no default."""
        lacking = [fact for fact in ("name", "engine", "files", "colour") if not hasattr(cls, fact)]
        if lacking:
            raise TypeError(f"runtime {cls.__name__} lacks {', '.join(lacking)}")

    @property
    def opens_folders(self) -> bool:
        """Whether an artefact is a model folder, not a file."""
        return self.suffix is None

    @abstractmethod
    def export(self, product: Product, folder: Path) -> Deployment:
        """Write the product in fp32 below the folder of a run, where the run keeps it.

        Raises ModelError for a model that it cannot run, MissingExtra.
        """

    def quantize(
        self, folder: Path, calibration: Sequence[Batch], *, exclude: Sequence[str] = (), **how: Any
    ) -> Deployment:
        """Write the int8 file below the folder of a run, from the fp32 ONNX file there.

        Args:
            folder: Holds `onnx/model.onnx` with its config and tokenizer.
            calibration: Rows of the task, one each, without padding.
            exclude: Names of nodes of the ONNX file that stay in fp32.
            how: One of `quantize_settings`.

        Raises:
            ModelError where no file can be made that answers in numbers; DataError, MissingExtra.
        """
        raise ModelError(f"{folder}: int8 is not offered for the {self.name} runtime")

    def quantize_settings(self) -> list[dict[str, Any]]:
        """Return the settings of `quantize` to try on this processor, the defaults first."""
        return [{}]

    def adopt_integers(self, file: Path, folder: Path) -> Deployment | None:
        """Return a deployment of an ONNX file that holds a model's own integers, or None.

        It is put where the run in `folder` keeps the int8 file of this runtime. None where the
        runtime does not compute with such a file.
        """
        return None

    @abstractmethod
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
        """Return an artefact ready to run; arguments are those of `open_predictor`.

        `device` and `serving` are among those that this class names.
        """

    def load_libraries(self) -> None:  # noqa: B027 - most have nothing to import
        """Import what every process of this runtime carries, so that no model is charged for it."""

    def synchronise(self, device: str) -> None:  # noqa: B027 - processors answer when done
        """Wait until what was asked of a device is done; called before a clock is read."""

    def machine(self) -> str | None:
        """Return what a file that is built here is built for; None for portable files."""
        return None

    def artefacts(self, place: Path) -> Iterator[Artefact]:
        """Yield what this runtime can open of a folder: a run, or one of its folders."""
        for precision, file in self.files.items():
            for found in (place / file.path.name, place / file.path):
                if found.is_file():
                    yield Artefact(self.name, precision, found, file.choice)
                    break

    def made_for(self, file: Path) -> bool:
        """Return whether a file is this runtime's own, by its name or by its folder's."""
        own = [each.path for each in self.files.values() if each.own]
        return file.name in {each.name for each in own} or file.parent.name in {
            each.parent.name for each in own
        }

    def serves(self, held: str, wanted: str | None, *, named: bool) -> bool:
        """Return whether an artefact of one precision serves a wish for another.

        `named`: whether the wish names this runtime.
        """
        return wanted in (None, held)

    def downloads(self, precision: str | None, *, named: bool) -> Iterator[tuple[int, str]]:
        """Yield choice and pattern of the files of a repository that serve a wish."""
        for held, file in self.files.items():
            if self.serves(held, precision, named=named):
                # A large ONNX file keeps its weights in a second one beside it.
                yield file.choice, f"{file.path.as_posix()}*"

    def weight_pattern(self, inside: str) -> str:
        """Return the pattern of what is downloaded for one artefact of a run on the Hub.

        `inside`: its place in the run.
        """
        return f"{inside}*"


def join_outputs(outputs: Sequence[NDArray[Any]]) -> Logits:
    """Return a model's outputs as one array: start and end logits are stacked on a last axis."""
    joined = outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)
    return np.ascontiguousarray(joined, dtype=np.float32)


def require(package: str, extra: str) -> Any:
    """Return an optional package; raises MissingExtra with the pip command where it is absent."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtra(package, extra) from error
