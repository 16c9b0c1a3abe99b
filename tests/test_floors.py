"""The house: which room may import which, sizes, and what costs nothing to import."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import bertcompress

ROOT = Path(bertcompress.__file__).parent
# From the roof down. A room is a list of floors of its own, again from the top down: within a floor
# nothing imports its neighbour.
ROOMS = [
    [
        "__main__",
        "cli",
        "cli_finding cli_models cli_run cli_compare",
        "cli_common cli_task cli_errors",
    ],
    [
        "runs",
        "runs.running",
        "runs.finishing",
        "runs.chain runs.outlook",
        "runs.starting runs.judging",
        "runs.contests",
        "runs.stages runs.checking runs.claiming",
        "runs.code runs.results",
    ],
    ["evaluation verification", "places"],
    ["run_folder run_task"],
    [
        "publish",
        "publish.hub",
        "publish.contents",
        "publish.card",
        "publish.scrubbing publish.manifest publish.rights publish.serving",
    ],
    [
        "report",
        "report.comparison",
        "report.report",
        "report.html",
        "report.plots",
        "report.tables",
        "report.speed_tables",
    ],
    [
        "report.verdict report.head",
        "report.alarms",
        "report.speed report.columns report.labelling",
        "report.cells report.drawing",
        "report.rows",
        "report.judgement",
    ],
    ["recipe", "draft", "settings", "overrides"],
    ["methods.finetune methods.distillation.distill methods.pruning.structured"],
    ["methods.factorization.trim_vocabulary methods.factorization.factorize_linear"],
    ["methods.factorization.flop"],
    ["methods.factorization.factorize_embedding methods.sharing.share_layers"],
    ["methods.quantization.q8bert methods.quantization.q_bert methods.quantization.int8"],
    ["methods methods.distillation methods.factorization methods.pruning methods.quantization"],
    ["methods.sharing"],
    [
        "engines",
        "engines.teaching engines.components engines.hessian engines.sensitivity engines.likeness",
        "engines.fakequant engines.guard",
    ],
    ["engines.teachers engines.objectives engines.kprune engines.spectra"],
    ["engines.linears"],
    ["engines.importance"],
    ["engines.average engines.gates engines.masks engines.reconstruct engines.search"],
    ["engines.vocabulary"],
    ["training", "training.fitting", "training.trainer training.callback", "training.progress"],
    ["training.pacing"],
    ["training.selection", "training.steps training.targets training.schedule training.rates"],
    ["training.loggers", "training.settings training.checkpoints"],
    [
        "method measure",
        "measure.scores measure.footprint measure.timing measure.probe",
        "measure.chance measure.served",
        "measure.latency",
        "measure.row measure.claims measure.rounds",
    ],
    [
        "runtimes.worker runtimes.openvino",
        "runtimes.onnxruntime runtimes.qdq",
        "runtimes.onnx runtimes.torch runtimes.nbits",
    ],
    [
        "runtimes.masking runtimes.smoothing runtimes.buckets",
        "runtimes.graph runtimes.process runtimes.ports",
        "runtimes",
        "runtimes.host",
    ],
    [
        "artefact data auto",
        "data.local",
        "data.for_model",
        "data.loading",
        "data.splitting data.rows data.task_data",
    ],
    ["data.sources data.labels data.lengths", "data.json_files data.parquet_files data.encoding"],
    ["data.text_files", "data.tables data.matching", "data.embedded", "data.lexicon"],
    ["stock task", "stock_albert"],
    ["tensors tokenizing", "reading"],
    [
        "heads.problem",
        "heads",
        "heads.agreement heads.multi_label heads.scoring",
        "heads.classes heads.numbers",
        "heads.head heads.stock",
    ],
    ["metrics", "metrics.bootstrap", "metrics.table", "metrics.weighted"],
    ["formats kinds"],
    ["shapes", "shapes.modeling", "shapes.edits"],
    ["shapes.cutting shapes.lowrank shapes.lowbit shapes.sharing shapes.vocabulary"],
    ["shapes.parts", "shapes.anatomy"],
    [
        "config_fields recognising catalogue locking machine ranks noise bits batches",
        "fetching",
    ],
    ["files store integrity remote bars waiting", "bounding"],
    ["display notebook"],
    ["terminal errors", "wording"],
    [""],  # the package itself: lazy, and so below everything
    ["_version"],
]
FLOOR = {
    name: number
    for number, floor in enumerate(floor for room in ROOMS for floor in room)
    for name in floor.split(" ")
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    .removesuffix("__init__")
    .rstrip("."): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


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


def test_every_module_has_its_floor():
    assert set(FLOOR) == set(MODULES)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_only_go_down(name):
    wrong = [
        f"{name}:{line} imports {other or 'bertcompress'}"
        for line, other in imports(name)
        if FLOOR[other] <= FLOOR[name]
    ]
    assert not wrong


def test_the_package_imports_its_rooms_only_for_type_checkers():
    checked = next(n for n in TREES[""].body if isinstance(n, ast.If))
    assert ast.unparse(checked.test) == "TYPE_CHECKING"
    rooms = {line for line, other in imports("") if other != "_version"}
    assert rooms <= {n.lineno for n in checked.body}


def test_what_travels_with_a_model_needs_nothing_else():
    for name in MODULES:
        if name.startswith("shapes"):
            assert all(other.startswith("shapes") for _, other in imports(name))


def test_only_the_anatomy_knows_families_by_name():
    from bertcompress.shapes import FAMILIES

    names = {*FAMILIES, *(family.stock_prefix for family in FAMILIES.values())}
    for module, tree in TREES.items():
        compared = [n for n in ast.walk(tree) if isinstance(n, ast.Compare | ast.MatchValue)]
        words = {c.value for n in compared for c in ast.walk(n) if isinstance(c, ast.Constant)}
        attributes = {
            a.attr
            for n in compared
            for a in ast.walk(n)
            if isinstance(a, ast.Attribute) and a.attr == "model_type"
        }
        if module != "shapes.anatomy":
            assert not (words & names or attributes), f"{module} asks which family a model is of"


@pytest.mark.parametrize("name", MODULES)
def test_sizes_and_all(name):
    lines = MODULES[name].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
    only_words = all(isinstance(node, ast.Expr) for node in TREES[name].body)
    if name != "__main__" and not only_words:
        assigned = [n for n in ast.walk(TREES[name]) if isinstance(n, ast.Name)]
        assert "__all__" in {n.id for n in assigned if isinstance(n.ctx, ast.Store)}


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
            "from bertcompress.cli import main\n"
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


@pytest.mark.parametrize("name", MODULES)
def test_what_a_problem_is_only_heads_know(name):
    if not name.startswith("heads"):
        assert compared(TREES[name], "problem") == []


def test_a_comparison_with_a_problem_is_found():
    for text in ('task.problem == "x"', 'problem in ("x", "y")', '"x" != self.problem'):
        assert compared(ast.parse(text), "problem") == [1]
    assert compared(ast.parse("problem == other"), "problem") == []


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
