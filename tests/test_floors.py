"""The house: which room may import which, sizes, and what costs nothing to import."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import bertcompress
from bertcompress.methods import METHODS

ROOT = Path(bertcompress.__file__).parent
# From the roof down: a room imports from lower floors only, and neighbours do not know each other.
FLOORS = [
    "__main__",
    "cli",
    "runs verbs",
    "publish",
    "recipe report",
    "draft",
    "methods",
    "engines",
    "training measure",
    "method runtimes",
    "models data",
    "hub task",
    "heads auto",
    "support",
    "errors metrics shapes",
    "deployment wording",
    "",  # the package itself: lazy, and so below everything
    "_version",
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor.split(" ")}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    .removesuffix("__init__")
    .rstrip("."): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def found_in_any(look: Callable[[Any], Any], but: str = "?") -> dict[str, Any]:
    """What is found in the source of each module outside a room, where anything is."""
    return {
        name: found
        for name, tree in TREES.items()
        if not name.startswith(but) and (found := look(tree))
    }


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and module of each import of this package, wherever in the file it stands."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}:{node.lineno}: a relative import"
            # `from bertcompress import metrics` names a module, `... import load` does not.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [i if i.partition(".")[2] in MODULES else str(node.module) for i in inner]
        else:
            continue
        for each in found:
            if each.split(".")[0] == "bertcompress":
                yield node.lineno, each.partition(".")[2]


def room(name: str) -> str:
    return name.partition(".")[0]


def test_every_room_has_its_floor():
    assert set(FLOOR) == {room(name) for name in MODULES}


def test_a_newcomer_can_count_the_rooms():
    assert len(FLOOR) <= 28


def test_imports_only_go_down():
    wrong = [
        f"{name}:{line} imports {other or 'bertcompress'}"
        for name in MODULES
        if name
        for line, other in imports(name)
        if room(other) != room(name) and FLOOR[room(other)] <= FLOOR[room(name)]
    ]
    assert not wrong


def test_no_file_imports_itself_in_a_circle():
    arrows = {name: {o for _, o in imports(name) if o != name} for name in MODULES if name}
    list(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the circle


def test_the_face_names_public_names_of_its_modules():
    stub = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            public = importlib.import_module(f"bertcompress.{node.module}").__all__
            assert {alias.name for alias in node.names} <= set(public), node.module


def test_what_travels_with_a_model_needs_nothing_else():
    for name in MODULES:
        if name.startswith("shapes"):
            assert all(other.startswith("shapes") for _, other in imports(name))


def imports_by_name(tree: ast.AST) -> list[str]:
    """Modules of this package that are imported by a name in a text."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.args]
    named = [c.args[0] for c in calls if ast.unparse(c.func).endswith("import_module")]
    texts = [n.value for n in named if isinstance(n, ast.Constant)]
    return [text for text in texts if text.startswith("bertcompress.")]


def test_one_import_is_by_name_and_does_its_work_whoever_asks():
    """Of what is not shipped with a model, by what is; within its room."""
    found = found_in_any(imports_by_name)
    assert found == {"shapes.modeling": ["bertcompress.shapes.stock"]}
    program = (
        "import json, pathlib, sys, tempfile, transformers\n"
        "from bertcompress import prune_layers\n"
        "config = transformers.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2,"
        " num_attention_heads=2, intermediate_size=8)\n"
        "model = prune_layers(transformers.BertModel(config), [0])\n"
        "print('bertcompress.shapes.stock' in sys.modules)\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "model.save_pretrained(folder)\n"
        "print(json.loads((folder / 'config.json').read_text())['model_type'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "bert"], done.stderr


def asks_for_a_family(tree: ast.AST, names: set[str]) -> list[int]:
    """Lines on which a name of a family, or a `model_type`, is compared with something."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare | ast.MatchValue):
            continue
        for inner in ast.walk(node):
            named = isinstance(inner, ast.Constant) and inner.value in names
            attribute = getattr(inner, "attr", getattr(inner, "id", None))
            if named or attribute == "model_type":
                found.append(node.lineno)
    return sorted(set(found))


def family_words() -> set[str]:
    from bertcompress.shapes import FAMILIES, family_named

    return {*FAMILIES, *(family_named(name).stock_prefix for name in FAMILIES)}


def test_what_a_family_is_only_families_know():
    assert found_in_any(lambda tree: asks_for_a_family(tree, family_words())) == {}


def test_a_question_for_a_family_is_found():
    for text in ('config.model_type == "x"', 'kind in ("x", "bert")', '"Bert" != name'):
        assert asks_for_a_family(ast.parse(text), family_words()) == [1]
    assert asks_for_a_family(ast.parse("family.shared == other"), family_words()) == []


def paths_of_layers() -> set[str]:
    """Attribute paths that a family declares and that say nothing outside it."""
    from bertcompress.shapes import FAMILIES, family_named

    families = [family_named(name) for name in FAMILIES]
    paths = {p for each in families for p in getattr(each, "linear_paths", {}).values()}
    return {path for path in paths if "." in path}


def test_no_path_into_a_layer_stands_outside_the_families():
    for name, tree in TREES.items():
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        if not name.startswith("shapes.families"):
            assert not texts & paths_of_layers(), name


def asks_for_an_edit(tree: ast.AST) -> list[int]:
    """Lines that read a record of edits, or ask for one kind of it by its name."""
    from bertcompress.shapes.edits import KINDS

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            read = {alias.name for alias in node.names} & {"KINDS", "Record", "read_record"}
            found += [node.lineno] * bool(read and (node.module or "").startswith(SHAPES))
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = any(isinstance(s, ast.Constant) and s.value in KINDS for s in sides)
            where = " ".join(ast.unparse(side) for side in sides)
            found += [node.lineno] * bool(named and ("record" in where or "edit" in where))
        elif isinstance(node, ast.Constant) and node.value in UNMISTAKABLE:
            found.append(node.lineno)
    return sorted({*found})


SHAPES = "bertcompress.shapes"
UNMISTAKABLE = {"lowbit", "lowrank", "masked", "sharing"}
"""Kinds whose names mean nothing else; `heads` and `layers` are also parts of a model."""


def test_which_edit_it_was_only_shapes_know():
    assert found_in_any(asks_for_an_edit, but="shapes") == {}


def test_a_question_for_an_edit_is_found():
    for text in (
        'records.get("masked")',
        '"layers" in records',
        'edit.kind == "heads"',
        "from bertcompress.shapes import read_record",
    ):
        assert asks_for_an_edit(ast.parse(text)) == [1], text
    assert asks_for_an_edit(ast.parse('site.kind == "heads"')) == []


def test_files_and_functions_are_short():
    long = {
        n: lines for n, p in MODULES.items() if (lines := p.read_text("utf-8").count("\n")) > 400
    }
    assert long == {}

    def long_functions(tree: ast.AST) -> list[str]:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef
        functions = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        return [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > 60]

    assert found_in_any(long_functions) == {}


def test_every_module_says_what_is_public():
    def silent(tree: ast.Module) -> bool:
        assigned = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
        stored = {n.id for n in assigned if isinstance(n.ctx, ast.Store)}
        return "__all__" not in stored and not all(isinstance(n, ast.Expr) for n in tree.body)

    assert set(found_in_any(silent)) <= {"__main__"}


HEAVY = ["torch", "transformers", "datasets", "onnxruntime", "openvino", "nncf", "scipy", "sklearn"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *([f"{verb}", "--help"] for verb in ("run", "evaluate", "bench", "export", "inspect")),
        *(["list", kind] for kind in ("methods", "recipes", "tasks", "families")),
        ["show", "quickstart"],
        ["show", "glue/mrpc"],
        ["show", "prune_structured"],
        ["store", "list"],
        None,
    ],
    ids=str,
)
def test_finding_ones_way_imports_no_torch(arguments):
    call = (
        ""
        if arguments is None
        else (
            f"sys.argv[1:] = {arguments!r}\n"
            "from bertcompress.cli.main import main\n"
            "try: main()\n"
            "except SystemExit as exit: assert not exit.code, exit.code\n"
        )
    )
    tail = f"print('HEAVY', sorted({set(HEAVY)!r} & set(sys.modules)))"
    program = f"import sys, bertcompress\n{call}{tail}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def compared(tree: ast.AST, noun: str) -> list[int]:
    """Lines on which something called `noun` is compared with a text."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = any(getattr(s, "attr", getattr(s, "id", None)) == noun for s in sides)
            inner = [e for s in sides for e in getattr(s, "elts", [s])]
            if named and any(
                isinstance(e, ast.Constant) and isinstance(e.value, str) for e in inner
            ):
                found.append(node.lineno)
    return found


def test_what_a_problem_is_only_heads_know():
    assert found_in_any(lambda tree: compared(tree, "problem"), but="heads") == {}


def test_a_comparison_with_a_problem_is_found():
    for text in ('task.problem == "x"', 'problem in ("x", "y")', '"x" != self.problem'):
        assert compared(ast.parse(text), "problem") == [1]
    assert compared(ast.parse("problem == other"), "problem") == []


def read_by_name(tree: ast.AST) -> list[int]:
    """Lines on which something is read of a method, or of settings, by a name in a text."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and len(n.args) > 1]
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id == "getattr"
        and getattr(call.args[0], "id", "") in {"m", "method", "settings", "control"}
        and isinstance(call.args[1], ast.Constant)
    ]


def test_a_run_asks_a_method_and_guesses_no_setting():
    wrong = {name: found for name, tree in TREES.items() if (found := read_by_name(tree))}
    assert {name for name in wrong if room(name) in ("runs", "verbs", "cli", "report")} == set()
    assert read_by_name(ast.parse('getattr(method, "keep", None)')) == [1]


def test_which_method_it_is_only_methods_know():
    """Nobody else compares a key with a text, or names a method in a text of its own."""

    def named(tree: ast.AST) -> set[str]:
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        own = {t.value for t in texts if id(t) not in documents and isinstance(t.value, str)}
        return own & {*METHODS}

    assert set(found_in_any(lambda tree: compared(tree, "method"), but="methods")) <= {
        "report.rows"  # where the model as it came is told from what methods made
    }
    # That is also what the Hub calls the relation of a model to its base.
    assert found_in_any(named, but="methods") == {"publish.card": {"finetune"}}


def test_runs_know_no_method_by_name():
    for name in MODULES:
        if name.startswith(("runs", "measure", "report")):
            known = {other for _, other in imports(name) if other.startswith("methods.")}
            assert not known, name


def constants(name: str, words: set[str]) -> list[str]:
    """Places where a module writes one of these words by itself."""
    found = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Constant)]
    return [f"{name}:{each.lineno}: {each.value}" for each in found if each.value in words]


def test_what_a_runtime_is_only_runtimes_know():
    outside = [name for name in MODULES if room(name) != "runtimes"]
    assert {name: lines for name in outside if (lines := compared(TREES[name], "runtime"))} == {}


def test_no_runtime_is_named_above_its_room():
    from bertcompress.runtimes import REFERENCE, RUNTIMES

    # torch is also the package that everything here is written in: its name says nothing.
    names = set(RUNTIMES) - {REFERENCE}
    above = [name for name in MODULES if FLOOR[room(name)] < FLOOR["runtimes"]]
    assert [place for name in above for place in constants(name, names)] == []
    assert constants("runtimes.table", names)  # there they are


def test_only_the_layout_spells_the_files_of_a_run():
    from bertcompress.deployment import KNOWN_ANSWERS_FILE, SERVE_FILE, Layout, StageLayout

    every = [*Layout().documents, Layout().manifest, StageLayout().record, StageLayout().answers]
    files = {*(path.name for path in every), KNOWN_ANSWERS_FILE, SERVE_FILE}
    others = [name for name in MODULES if name != "deployment"]
    assert [place for name in others for place in constants(name, files)] == []
    assert {place.rpartition(" ")[2] for place in constants("deployment", files)} == files


def test_the_command_line_names_the_runtimes_that_there_are():
    from bertcompress.cli.common import Runtime
    from bertcompress.runtimes import RUNTIMES

    (option,) = Runtime.__metadata__
    assert option.help == ", ".join(RUNTIMES)


def test_nothing_but_the_face_imports_the_package_as_a_whole():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and name not in ("", "__main__"):
                assert "bertcompress" not in [alias.name for alias in node.names], name


def test_the_build_reads_the_version_of_the_package():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    path = ROOT.parent / project["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{bertcompress.__version__}"' in path.read_text(encoding="utf-8")
