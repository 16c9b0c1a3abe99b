"""Names what a model folder holds where that is no plain checkpoint, and says what to do.

By names of files and by config.json alone: nothing is loaded, and nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bertcompress.errors import InputError
from bertcompress.support.reading import read_json as read

__all__ = [
    "encoder_folder",
    "left_out_layers",
    "read_json",
    "sentence_modules",
    "weights_obstacle",
    "what_else",
]

MODULES = "modules.json"
"""sentence-transformers lists here what a model is made of."""

_UNTRAINED = ("Transformer", "Pooling", "Normalize", "Dropout")

_SAVED = "load it with transformers, then model.save_pretrained(folder) writes model.safetensors"
_PICKLE = (
    f"a pickle, which can run any code when it is read; convert it where you trust it: {_SAVED}"
)

_OTHER_WEIGHTS = {
    "pytorch_model*.bin": _PICKLE,
    "*.h5": "weights of TensorFlow, which nothing here reads; convert it with transformers 4: "
    "from_pretrained(folder, from_tf=True), then model.save_pretrained(folder)",
    "*.msgpack": "weights of Flax, which nothing here reads; convert it with transformers 4: "
    "from_pretrained(folder, from_flax=True), then model.save_pretrained(folder)",
    "*.ckpt.index": "a checkpoint of TensorFlow 1, which nothing here reads; convert it with "
    "transformers 4: `transformers-cli convert`",
    "*.gguf": "weights of llama.cpp, which nothing here reads; take the model that it was made of",
    "*.onnx": "an ONNX file: evaluate and bench run it as it is; nothing can cut or train it, so "
    "give the model that it was exported from",
    "*.bin": _PICKLE,
    "*.pt": _PICKLE,
    "*.pth": _PICKLE,
}
"""Pattern of a file to what it is and what to do; the most telling first."""

_OF_TRAINING = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; None where there is none that can be read."""
    try:
        return read(path)
    except (OSError, InputError):
        return None


def encoder_folder(folder: Path) -> Path:
    """Return where config and weights lie: sentence-transformers may keep them a folder deeper."""
    if (folder / "config.json").is_file():
        return folder
    for module in sentence_modules(folder):
        inner = folder / str(module.get("path", "")).strip("/")
        if ".." in inner.parts or len(inner.name) > 100:
            continue
        if _kind(module).endswith("Transformer") and (inner / "config.json").exists():
            return inner
    return folder


def what_else(folder: Path) -> str | None:
    """Return what a folder is, if no model that can be loaded, and what to do; else None."""
    checks: tuple[Callable[[Path], str | None], ...] = (
        _adapter,
        _setfit,
        _sentence_layers,
        _trainer_output,
        _elsewhere,
    )
    return next((words for check in checks if (words := check(folder))), None)


def weights_obstacle(folder: Path) -> str:
    """Return why a folder without *.safetensors has no weights that are read."""
    for pattern, words in _OTHER_WEIGHTS.items():
        files = [p.name for p in folder.glob(pattern) if not p.name.startswith(_OF_TRAINING)]
        if files:
            return f"{min(files)} is {words}"
    return (
        "no *.safetensors file in the folder, and weights of other formats (pytorch_model.bin, "
        f"tf_model.h5) are not read; {_SAVED}"
    )


def _adapter(folder: Path) -> str | None:
    written = read_json(folder / "adapter_config.json")
    if written is None:
        return None
    fields = written if isinstance(written, dict) else {}
    kind = str(fields.get("peft_type") or "LoRA")
    base = fields.get("base_model_name_or_path")
    return (
        f"a {'LoRA' if kind.upper() == 'LORA' else kind} adapter"
        + (f" of '{base}'" if base else "")
        + ", not a whole model; merge it first: AutoPeftModelForSequenceClassification"
        ".from_pretrained(folder).merge_and_unload().save_pretrained(merged), with the tokenizer "
        "beside"
    )


def _setfit(folder: Path) -> str | None:
    heads = sorted(p.name for p in folder.glob("model_head.*"))
    if not heads and not (folder / "config_setfit.json").is_file():
        return None
    head = heads[0] if heads else "its head"
    return (
        f"a SetFit model: a sentence encoder and, in {head}, a head of scikit-learn, which is a "
        "pickle and never opened; to use the encoder with a new head, copy config.json, "
        "model.safetensors and the tokenizer's files to a folder of their own, and fine-tune that"
    )


def _sentence_layers(folder: Path) -> str | None:
    """Return a refusal for trained layers behind the encoder: without them it answers otherwise."""
    names = [_kind(module) for module in sentence_modules(folder)]
    if names and not any(name.endswith("Transformer") for name in names):
        return f"a sentence-transformers model without a transformer in it: {', '.join(names)}"
    return None


def left_out_layers(folder: Path) -> list[str]:
    """Return the trained sentence-transformers layers that lie behind the encoder of a folder."""
    found = []
    for module in sentence_modules(folder) or sentence_modules(folder.parent):
        name = _kind(module)
        if name not in _UNTRAINED:
            found.append(f"{name} ({module.get('path') or module.get('name')})")
    return found


def _trainer_output(folder: Path) -> str | None:
    if (folder / "config.json").is_file():
        return None
    found = [p for p in folder.glob("checkpoint-*") if (p / "config.json").is_file()]
    numbered = sorted(found, key=lambda p: (len(p.name), p.name))
    if not numbered:
        return None
    state = read_json(numbered[-1] / "trainer_state.json")
    best = state.get("best_model_checkpoint") if isinstance(state, dict) else None
    advice = f"its best was {Path(best).name}" if best else f"the last is {numbered[-1].name}"
    names = ", ".join(p.name for p in numbered)
    return f"the output folder of a Trainer; give one of its checkpoints ({names}; {advice})"


def _elsewhere(folder: Path) -> str | None:
    if (folder / "config.json").is_file():
        return None
    deeper = sorted(p.parent.name for p in folder.glob("*/config.json"))
    if not deeper:
        return None
    return f"no config.json in the folder; there is one in '{deeper[0]}' below it: give that"


def _kind(module: Mapping[str, Any]) -> str:
    """Return the class of a module without its place in the package."""
    return str(module.get("type", "")).rpartition(".")[2]


def sentence_modules(folder: Path) -> list[Mapping[str, Any]]:
    """Return what a sentence-transformers folder lists in modules.json; empty for another kind."""
    written = read_json(folder / MODULES)
    if not isinstance(written, list):
        return []
    return [each for each in written if isinstance(each, dict)]
