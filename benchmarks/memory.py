"""Peak memory of a run of six stages beside that of one training; the goal is at most 1.5 times.

python benchmarks/memory.py                                  the shape of XLM-R-base; 10 GB, minutes
python benchmarks/memory.py --hidden 64 --layers 2 --vocabulary 31000           to see that it works

Each run has its own process, random weights of the shape, three steps a training, no timing. A
stage's model is read from its folder when it is needed: more than one and a teacher is too many.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GOAL = 1.5
TRAIN: dict[str, Any] = {
    "batch_size": 8,
    "learning_rate": 1e-4,
    "precision": "fp32",
    "max_steps": 3,
}
CUT: dict[str, Any] = {"prune_structured": {"keep": 0.9, "rows": 8}}
METHODS: dict[str, list[dict[str, Any]]] = {
    "one training": [{"finetune": TRAIN}],
    "six stages": [
        {"finetune": TRAIN},
        CUT,
        {"distill": TRAIN},
        CUT,
        {"distill": TRAIN},
        {"distill": {**TRAIN, "temperature": 3.0}},
    ],
}


def main() -> None:
    """Print the peak of each run, in gigabytes, and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=250_002)
    parser.add_argument("--kind", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        print(f"PEAK {_peak_gb(METHODS[options.kind], options)}")
        return
    peaks = {}
    for kind in METHODS:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--kind", kind],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        peaks[kind] = float(done.stdout.rpartition("PEAK ")[2])
        print(f"{kind}: {peaks[kind]:.2f} GB", flush=True)
    ratio = peaks["six stages"] / peaks["one training"]
    print(f"{ratio:.2f} times; the goal is at most {GOAL}")
    sys.exit(ratio > GOAL)


def _peak_gb(methods: list[dict[str, Any]], options: argparse.Namespace) -> float:
    import bertcompress as bc
    from bertcompress.runs.store import StageStore

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _write_model(place / "model", options)
        for split, rows in (("train", 80), ("validation", 20)):
            kinds = [("bad", "no"), ("good", "yes")] * (rows // 2)
            lines = [
                f"a {word} thing of {split} {i},{label}" for i, (word, label) in enumerate(kinds)
            ]
            text = "\n".join(["text,label", *lines])
            (place / f"{split}.csv").write_text(text + "\n", encoding="utf-8")
        task = bc.Task.from_files(
            place / "train.csv", place / "validation.csv", text="text", label="label", max_length=16
        )
        content = {"model": str(place / "model"), "task": task, "methods": methods}
        recipe = bc.Recipe.parse({**content, "measure": {"latency": False}})
        bc.run(recipe, place / "run", store=StageStore(place / "store"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _write_model(folder: Path, options: argparse.Namespace) -> None:
    """Write an encoder of XLM-R's classes with random weights, and a small tokenizer."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    import bertcompress as bc

    tokenizer = bc.load("embedded:minilm-l6").tokenizer
    config = XLMRobertaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.hidden // 64),
        intermediate_size=4 * options.hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
