"""The public names, and where each one lives."""

from .data import load_data
from .engines.distillation.teachers import LiveTeacher
from .methods.distillation.born_again import BornAgain, born_again
from .methods.distillation.distill import Distill, distill
from .methods.distillation.distill_inside import MiniLM, Pkd, TinyBert, minilm, pkd, tinybert
from .methods.distillation.online_peers import OnlinePeers, online_peers
from .methods.distillation.sequence_level import SequenceLevel, sequence_level
from .methods.distillation.snapshot import Snapshot, snapshot
from .methods.distillation.student import Student, student
from .methods.distillation.ted import Ted, ted
from .methods.distillation.theseus import Theseus, theseus
from .methods.factorization.factorize_embedding import FactorizeEmbedding, factorize_embedding
from .methods.factorization.factorize_linear import FactorizeLinear, factorize_linear
from .methods.factorization.flop import Flop, flop
from .methods.factorization.trim_vocabulary import TrimVocabulary, trim_vocabulary
from .methods.probes.mode_connectivity import ModeConnectivity, mode_connectivity
from .methods.pruning.hidden import PruneHidden, prune_hidden
from .methods.pruning.kprune import KPrune, kprune
from .methods.pruning.structured import (
    PruneStructured,
    prune_heads,
    prune_layers,
    prune_neurons,
    prune_structured,
)
from .methods.quantization.int8 import QuantizeInt8, quantize_int8
from .methods.quantization.q8bert import Q8bert, q8bert
from .methods.quantization.q_bert import QBert, q_bert
from .methods.sharing.share_layers import ShareLayers, share_layers
from .methods.sparsity.sparse_training import GradualMagnitude, gradual_magnitude
from .methods.training.finetune import Finetune, finetune
from .models.io import load, save
from .publish.push import pull, push
from .recipe import Recipe
from .report import Report, plot
from .report.comparison import Comparison, compare
from .runs.run import Run, compress, run, ship
from .runtimes import open_predictor
from .shapes import apply_edit
from .shapes.stock_albert import to_albert
from .task import Task
from .training import BaseObjective, ObjectiveCallback
from .verbs.bench import bench
from .verbs.evaluate import evaluate
from .verbs.export import export
from .verbs.inspect import inspect
from .verbs.verify import verify

__version__: str

__all__ = [
    "BaseObjective",
    "BornAgain",
    "Comparison",
    "Distill",
    "FactorizeEmbedding",
    "FactorizeLinear",
    "Finetune",
    "Flop",
    "GradualMagnitude",
    "KPrune",
    "LiveTeacher",
    "MiniLM",
    "ModeConnectivity",
    "ObjectiveCallback",
    "OnlinePeers",
    "Pkd",
    "PruneHidden",
    "PruneStructured",
    "Q8bert",
    "QBert",
    "QuantizeInt8",
    "Recipe",
    "Report",
    "Run",
    "SequenceLevel",
    "ShareLayers",
    "Snapshot",
    "Student",
    "Task",
    "Ted",
    "Theseus",
    "TinyBert",
    "TrimVocabulary",
    "__version__",
    "apply_edit",
    "bench",
    "born_again",
    "compare",
    "compress",
    "distill",
    "evaluate",
    "export",
    "factorize_embedding",
    "factorize_linear",
    "finetune",
    "flop",
    "gradual_magnitude",
    "inspect",
    "kprune",
    "load",
    "load_data",
    "minilm",
    "mode_connectivity",
    "online_peers",
    "open_predictor",
    "pkd",
    "plot",
    "prune_heads",
    "prune_hidden",
    "prune_layers",
    "prune_neurons",
    "prune_structured",
    "pull",
    "push",
    "q8bert",
    "q_bert",
    "quantize_int8",
    "run",
    "save",
    "sequence_level",
    "share_layers",
    "ship",
    "snapshot",
    "student",
    "ted",
    "theseus",
    "tinybert",
    "to_albert",
    "trim_vocabulary",
    "verify",
]
