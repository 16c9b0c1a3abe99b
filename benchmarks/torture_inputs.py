"""A seeded fuzzer: the n-th mutation of a file is always the same one."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "mutate", "mutate_json"]

NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, -(2**63), 10**30, 1e308, 0.5, float("nan")),
    *("", " ", "\x00", "a" * 10_000, "../../etc/passwd", "/", "é\u202e\x1b[31m", "[bold]x[/]"),
    *([], {}, [None], [[]], {"": 1}, list(range(1_000)), ["a"] * 1_000, {"a": {"b": {"c": []}}}),
]
PIECES = [
    *(b"\x00", b'"', b"'", b",", b"\n", b"\r\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"{", b"]"),
    *(b"NaN", b"-1", b"1e999", b"9" * 400, b"[" * 3_000, b"a" * 200_000, b"\x1b[2J", b"=cmd()"),
]


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    """Return a content with one to four damages."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        span = min(len(content) - at, draw.choice([1, 2, 8, 100, 10_000]))
        kind = draw.choice(["cut", "flip", "insert", "drop", "twice", "random"])
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and at < len(content):
            content = (
                content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
            )
        elif kind == "insert":
            content = content[:at] + draw.choice(PIECES) + content[at:]
        elif kind == "drop":
            content = content[:at] + content[at + span :]
        elif kind == "twice":
            content = content[: at + span] + content[at:]
        else:
            content = content[:at] + draw.randbytes(span) + content[at + span :]
    return content


def mutate_json(value: Any, draw: random.Random) -> Any:
    """Return a JSON value in which one to three places hold something else, or nothing."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return draw.choice(NASTY)
        inside, key = draw.choice(places)
        kind = draw.choice(
            ["replace", "replace", "replace", "delete", "swap", "nest", "other name"]
        )
        if kind == "replace":
            inside[key] = draw.choice(NASTY)
        elif kind == "delete":
            del inside[key]
        elif kind == "swap":
            other, place = draw.choice(places)
            inside[key], other[place] = other[place], inside[key]
        elif kind == "nest":
            for _ in range(draw.choice([1, 50, 400])):
                inside[key] = [inside[key]]
        elif isinstance(inside, dict):
            inside[f"{key}_"] = inside.pop(key)
        value = json.loads(json.dumps(value))  # what was swapped into itself would have no end
    return value


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _text(value: Any, draw: random.Random) -> bytes:
    return json.dumps(value, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")


def json_file(content: bytes, draw: random.Random) -> bytes:
    """Return a JSON file of other values, or one that is no JSON any more."""
    if draw.random() < 0.25:
        return mutate_bytes(content, draw)
    return _text(_mutated(json.loads(content), draw), draw)


def json_lines(content: bytes, draw: random.Random) -> bytes:
    """Return JSON lines of which some hold other values."""
    if draw.random() < 0.3:
        return mutate_bytes(content, draw)
    lines = content.splitlines()
    for _ in range(draw.choice([1, 1, 5, len(lines)])):
        at = draw.randrange(len(lines))
        lines[at] = _text(_mutated(json.loads(lines[at]), draw), draw)
    return b"\n".join(lines)


def _mutated(value: Any, draw: random.Random) -> Any:
    try:
        return mutate_json(value, draw)
    except (RecursionError, ValueError, KeyError, IndexError, TypeError):
        return draw.choice(NASTY)  # two damages did not go together


def csv(content: bytes, draw: random.Random) -> bytes:
    """Return a CSV of other cells, columns or bytes."""
    if draw.random() < 0.5:
        return mutate_bytes(content, draw)
    rows = [line.split(b",") for line in content.splitlines()]
    for _ in range(draw.choice([1, 3, len(rows)])):
        row = draw.choice(rows)
        cell = str(draw.choice(NASTY)).encode()
        kind = draw.choice(["cell", "more", "fewer", "empty"])
        if kind == "cell" and row:
            row[draw.randrange(len(row))] = cell
        elif kind == "more":
            row.append(cell)
        elif row:
            row.pop() if kind == "fewer" else row.clear()
    return draw.choice([b"\n", b"\n", b"\r\n", b"\r"]).join(b",".join(row) for row in rows)


def safetensors(content: bytes, draw: random.Random) -> bytes:
    """Return a safetensors file with another header, or other bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    header, tensors = content[8 : 8 + length], content[8 + length :]
    kind = draw.choice(["header", "header", "header", "length", "bytes", "tensors"])
    if kind == "bytes":
        return mutate_bytes(content, draw)
    if kind == "length":
        return struct.pack("<Q", draw.choice([0, 1, length - 1, 2**31, 2**63])) + content[8:]
    if kind == "tensors":
        return content[: 8 + length] + mutate_bytes(tensors, draw)
    changed = _text(_mutated(json.loads(header), draw), draw)
    return struct.pack("<Q", len(changed)) + changed + tensors


def onnx_file(content: bytes, draw: random.Random) -> bytes:  # noqa: C901 - a list of damages
    """Return an ONNX file with a damaged graph, or other bytes."""
    import onnx

    if draw.random() < 0.3:
        return mutate_bytes(content, draw)
    model = onnx.load_from_string(content)
    graph = model.graph
    for _ in range(draw.randint(1, 3)):
        node = draw.choice(graph.node)
        kind = draw.choice(["output", "input", "cycle", "op", "gone", "weight", "shape", "name"])
        if kind == "output" and graph.output:
            del graph.output[draw.randrange(len(graph.output))]
        elif kind == "input" and node.input:
            node.input[draw.randrange(len(node.input))] = draw.choice(["", "nowhere"])
        elif kind == "cycle" and node.input:
            node.input[0] = draw.choice(graph.node).output[0]
        elif kind == "op":
            node.op_type = draw.choice(["Nothing", "Identity", "Loop", "MatMul", ""])
        elif kind == "gone":
            graph.node.remove(node)
        elif kind == "weight" and graph.initializer:
            weight = draw.choice(graph.initializer)
            weight.raw_data = weight.raw_data[: draw.choice([0, 1, 7])]
        elif kind == "shape" and graph.initializer:
            draw.choice(graph.initializer).dims[:] = draw.choice(
                [[2**40], [0], [-1], [10**9, 10**9]]
            )
        elif kind == "name" and graph.input:
            graph.input[0].name = draw.choice(["", "other", "x" * 100_000])
    return bytes(model.SerializeToString())


def npz(content: bytes, draw: random.Random) -> bytes:  # noqa: C901 - a list of damages
    """Return an archive of arrays with others in it: objects, bombs, wrong shapes and numbers."""
    import numpy as np

    if draw.random() < 0.3:
        return mutate_bytes(content, draw)
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for _ in range(draw.randint(1, 2)):
        name = draw.choice(sorted(arrays))
        kind = draw.choice(["gone", "kind", "shape", "value", "bomb", "object", "name", "text"])
        if kind == "gone":
            arrays.pop(name)
        elif kind == "kind":
            arrays[name] = np.asarray(arrays[name]).astype("U16")
        elif kind == "shape":
            arrays[name] = np.asarray(arrays[name]).reshape(-1)[: draw.choice([0, 1, 7])]
        elif kind == "value" and arrays[name].dtype.kind in "fi":
            arrays[name] = np.full_like(arrays[name], draw.choice([0, -1, 2**31 - 1]))
        elif kind == "bomb":
            arrays[name] = np.zeros(draw.choice([10**7, 3 * 10**8]), np.uint8)
        elif kind == "object":
            arrays[name] = np.array([{"a": 1}, None], object)
        elif kind == "name":
            arrays[draw.choice(["", "../x", "inputs/", "answers/none"])] = arrays.pop(name)
        elif kind == "text":
            arrays[name] = np.array(json.dumps(draw.choice(NASTY[:-1])))
        if not arrays:
            break
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            inner = io.BytesIO()
            np.save(inner, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", inner.getvalue())
    return stream.getvalue()


Mutation = Callable[[bytes, random.Random], bytes]

KINDS: dict[str, tuple[str, Mutation, list[str]]] = {
    # kind: file, mutation, command
    "csv": ("validation.csv", csv, ["evaluate", "tuned", "--task", "task.yaml"]),
    "csv of a run": ("train.csv", csv, ["run", "cut.yaml", "--out", "out"]),
    "json": ("validation.jsonl", json_lines, ["evaluate", "tuned", "--task", "lines.yaml"]),
    "config": ("tuned/config.json", json_file, ["evaluate", "tuned", "--task", "task.yaml"]),
    "tokenizer": ("tuned/tokenizer.json", json_file, ["evaluate", "tuned", "--task", "task.yaml"]),
    "recipe": ("cut.yaml", json_file, ["run", "cut.yaml", "--out", "out"]),
    "task": ("task.yaml", json_file, ["evaluate", "tuned", "--task", "task.yaml"]),
    "safetensors": ("tuned/model.safetensors", safetensors, ["inspect", "tuned"]),
    "onnx": (
        "ship/onnx/model.onnx",
        onnx_file,
        ["evaluate", "ship/onnx/model.onnx", "--task", "task.yaml"],
    ),
    "npz": ("ship/onnx/probe.npz", npz, ["verify", "ship/onnx", "--seconds", "0"]),
    "report": ("ship/report.json", json_file, ["plot", "ship", "--out", "figures"]),
    "hub": ("", mutate_bytes, ["pull", "me/tiny", "pulled"]),
}
"""What is damaged, how, and the command that reads it. A Hub's answers are damaged on their way."""


def mutate(kind: str, place: Path, number: int, seed: int = 0) -> list[str]:
    """Damage a file in `place`, as the `number`-th mutation of its kind; return the command."""
    file, how, command = KINDS[kind]
    draw = random.Random(f"{seed} {kind} {number}")
    if file:
        path = place / file
        content = path.read_bytes()
        path.unlink()  # it may be another name of the material's
        path.write_bytes(how(content, draw))
    return command
