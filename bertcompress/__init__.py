"""bertcompress: makes BERT-family encoders smaller and faster.

The names below are imported when they are first used, so that `bertcompress --help` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bertcompress._version import __version__

_WHERE = {
    "Recipe": "recipe",
    "Task": "task",
    "Report": "report",
    "Run": "runs",
    "run": "runs",
    "load": "artefact",
    "save": "artefact",
    "load_data": "data",
    "open_predictor": "runtimes",
    "evaluate": "evaluation",
    "bench": "evaluation",
    "export": "evaluation",
    "inspect": "evaluation",
    "push": "publish.hub",
    "pull": "publish.hub",
    "plot": "report",
    "compare": "report.comparison",
    "Comparison": "report.comparison",
    "apply_edit": "shapes",
    "Finetune": "methods.finetune",
    "finetune": "methods.finetune",
    "LiveTeacher": "engines.teachers",
    "ObjectiveCallback": "training",
    "Distill": "methods.distillation.distill",
    "distill": "methods.distillation.distill",
    "ShareLayers": "methods.sharing.share_layers",
    "share_layers": "methods.sharing.share_layers",
    "FactorizeEmbedding": "methods.factorization.factorize_embedding",
    "factorize_embedding": "methods.factorization.factorize_embedding",
    "Flop": "methods.factorization.flop",
    "flop": "methods.factorization.flop",
    "FactorizeLinear": "methods.factorization.factorize_linear",
    "factorize_linear": "methods.factorization.factorize_linear",
    "to_albert": "stock_albert",
    "verify": "verification",
    "TrimVocabulary": "methods.factorization.trim_vocabulary",
    "trim_vocabulary": "methods.factorization.trim_vocabulary",
    "PruneStructured": "methods.pruning.structured",
    "prune_heads": "methods.pruning.structured",
    "prune_layers": "methods.pruning.structured",
    "prune_neurons": "methods.pruning.structured",
    "prune_structured": "methods.pruning.structured",
    "Q8bert": "methods.quantization.q8bert",
    "q8bert": "methods.quantization.q8bert",
    "QBert": "methods.quantization.q_bert",
    "q_bert": "methods.quantization.q_bert",
    "QuantizeInt8": "methods.quantization.int8",
    "quantize_int8": "methods.quantization.int8",
}

__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from bertcompress.artefact import load as load
    from bertcompress.artefact import save as save
    from bertcompress.data import load_data as load_data
    from bertcompress.engines.teachers import LiveTeacher as LiveTeacher
    from bertcompress.evaluation import bench as bench
    from bertcompress.evaluation import evaluate as evaluate
    from bertcompress.evaluation import export as export
    from bertcompress.evaluation import inspect as inspect
    from bertcompress.methods.distillation.distill import Distill as Distill
    from bertcompress.methods.distillation.distill import distill as distill
    from bertcompress.methods.factorization.factorize_embedding import (
        FactorizeEmbedding as FactorizeEmbedding,
    )
    from bertcompress.methods.factorization.factorize_embedding import (
        factorize_embedding as factorize_embedding,
    )
    from bertcompress.methods.factorization.factorize_linear import (
        FactorizeLinear as FactorizeLinear,
    )
    from bertcompress.methods.factorization.factorize_linear import (
        factorize_linear as factorize_linear,
    )
    from bertcompress.methods.factorization.flop import Flop as Flop
    from bertcompress.methods.factorization.flop import flop as flop
    from bertcompress.methods.factorization.trim_vocabulary import TrimVocabulary as TrimVocabulary
    from bertcompress.methods.factorization.trim_vocabulary import (
        trim_vocabulary as trim_vocabulary,
    )
    from bertcompress.methods.finetune import Finetune as Finetune
    from bertcompress.methods.finetune import finetune as finetune
    from bertcompress.methods.pruning.structured import PruneStructured as PruneStructured
    from bertcompress.methods.pruning.structured import prune_heads as prune_heads
    from bertcompress.methods.pruning.structured import prune_layers as prune_layers
    from bertcompress.methods.pruning.structured import prune_neurons as prune_neurons
    from bertcompress.methods.pruning.structured import prune_structured as prune_structured
    from bertcompress.methods.quantization.int8 import QuantizeInt8 as QuantizeInt8
    from bertcompress.methods.quantization.int8 import quantize_int8 as quantize_int8
    from bertcompress.methods.quantization.q8bert import Q8bert as Q8bert
    from bertcompress.methods.quantization.q8bert import q8bert as q8bert
    from bertcompress.methods.quantization.q_bert import QBert as QBert
    from bertcompress.methods.quantization.q_bert import q_bert as q_bert
    from bertcompress.methods.sharing.share_layers import ShareLayers as ShareLayers
    from bertcompress.methods.sharing.share_layers import share_layers as share_layers
    from bertcompress.publish.hub import pull as pull
    from bertcompress.publish.hub import push as push
    from bertcompress.recipe import Recipe as Recipe
    from bertcompress.report import Report as Report
    from bertcompress.report import plot as plot
    from bertcompress.report.comparison import Comparison as Comparison
    from bertcompress.report.comparison import compare as compare
    from bertcompress.runs import Run as Run
    from bertcompress.runs import run as run
    from bertcompress.runtimes import open_predictor as open_predictor
    from bertcompress.shapes import apply_edit as apply_edit
    from bertcompress.stock_albert import to_albert as to_albert
    from bertcompress.task import Task as Task
    from bertcompress.training import ObjectiveCallback as ObjectiveCallback
    from bertcompress.verification import verify as verify


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'bertcompress' has no attribute '{name}'")
    return getattr(importlib.import_module(f"bertcompress.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
