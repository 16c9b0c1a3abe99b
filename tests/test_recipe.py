"""Recipes: strict YAML, overrides, order, round trip, what is shipped, the schema."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import bertcompress as bc
from bertcompress.errors import InputError, NotFound, RecipeError
from bertcompress.methods import METHODS
from bertcompress.recipe import Measuring, Recipe, recipe_schema
from bertcompress.support.catalogue import list_names, resolve

DOCS = Path(__file__).parents[1] / "docs"
TEXT = """
model: some/model
task: glue/mrpc
methods:
  - finetune: {epochs: 2}
  - prune_structured
  - distill:
  - quantize_int8: {rows: 100}
seed: 7
measure: {latency: false}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_file_is_the_typed_object(file):
    assert Recipe.load(file) == Recipe(
        model="some/model",
        task="glue/mrpc",
        methods=[
            bc.Finetune(epochs=2),
            bc.PruneStructured(),
            bc.Distill(),
            bc.QuantizeInt8(rows=100),
        ],
        seed=7,
        measure=Measuring(latency=False),
    )


def test_the_shortest_recipe():
    recipe = Recipe.parse({"methods": ["finetune"]})
    assert (recipe.model, recipe.task, recipe.seed) == ("embedded:minilm-l6", "embedded", 0)
    assert recipe.measure.shapes == ((1, 128), (8, 128))
    assert recipe == Recipe(methods=[bc.Finetune()])


def test_a_training_that_would_learn_nothing_is_refused():
    nothing = {"label_weight": 0, "logit_weight": 0, "hidden_weight": 0}
    with pytest.raises(RecipeError, match=r"methods\[1\].q8bert: nothing is learned: label_weight"):
        Recipe.parse({"methods": ["finetune", {"q8bert": nothing}]})
    Recipe.parse({"methods": ["finetune", {"q8bert": {**nothing, "attention_weight": 1}}]})


@pytest.mark.parametrize("name", list_names("recipes"))
def test_shipped_recipes_load_and_say_what_they_are_for(name, tmp_path):
    recipe = Recipe.load(name)
    assert len(recipe.description) > 20
    assert recipe.resolved_task().name
    first = resolve("recipes", name).read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../docs/recipe.schema.json"
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "again.yaml") == recipe


def test_yaml_round_trip_with_everything_set(file, tmp_path):
    task = bc.Task.from_files("a.csv", "b.csv", text=["one", "two"], label="y", max_length=32)
    recipe = Recipe.load(file, task=task, seed=3).model_copy(
        update={"revision": "main", "teacher": "some/teacher", "limit": 50, "max_length": 16}
    )
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    again = Recipe.load(tmp_path / "again.yaml")
    assert again == recipe
    assert again.resolved_task().max_length == 16
    assert list(yaml.safe_load(recipe.to_yaml()))[-1] == "methods"


def test_defaults_are_left_out_of_the_yaml(file):
    plain = yaml.safe_load(Recipe.load(file).to_yaml())
    assert plain["methods"] == [
        {"finetune": {"epochs": 2.0}},
        "prune_structured",
        "distill",
        {"quantize_int8": {"rows": 100}},
    ]
    assert set(plain) == {"model", "task", "methods", "seed", "measure"}


@pytest.mark.parametrize(
    ("override", "check"),
    [
        ("seed=9", lambda r: r.seed == 9),
        ("methods.0.epochs=0.5", lambda r: r.methods[0].epochs == 0.5),
        ("methods.1.keep=0.25", lambda r: r.methods[1].keep == 0.25),
        ("methods.2.temperature=3", lambda r: r.methods[2].temperature == 3),
        ("methods.3.runtimes=[openvino]", lambda r: r.methods[3].runtimes == ("openvino",)),
        ("methods.3=finetune", None),
        ("measure.threads=2", lambda r: r.measure.threads == 2 and not r.measure.latency),
        ("measure.shapes=[[1, 16]]", lambda r: r.measure.shapes == ((1, 16),)),
        ("task=glue/sst2", lambda r: r.task == "glue/sst2"),
        ("teacher=null", lambda r: r.teacher is None),
    ],
)
def test_overrides(file, override, check):
    if check is None:
        assert Recipe.load(file, [override]).methods[3] == bc.Finetune()
    else:
        assert check(Recipe.load(file, [override]))


def test_later_overrides_win_and_fields_of_none_do_not_count(file):
    recipe = Recipe.load(file, ["seed=1", "seed=2"], model="other/model", task=None)
    assert (recipe.seed, recipe.model, recipe.task) == (2, "other/model", "glue/mrpc")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "must look like methods.1.keep=0.5"),
        ("=3", "must look like"),
        ("methods.9.keep=1", "no entry '9'; allowed: 0 to 3"),
        ("methods.first.keep=1", "no entry 'first'"),
        ("methods.1.kep=1", "unknown field 'kep'; did you mean 'keep'"),
        ("seed.below=1", "'seed' is a single value, nothing is below it"),
        ("methods.1.keep.deeper=1", "prune_structured: keep: "),
        ("methods.1.keep=[", "not a YAML value"),
        ("sede=1", "unknown field 'sede'; did you mean 'seed'"),
        ("measure.thread=1", "measure: unknown field 'thread'; did you mean 'threads'"),
        ("methods=nonsense", "methods must be a list"),
    ],
)
def test_overrides_that_cannot_be(file, override, says):
    with pytest.raises(RecipeError, match=says) as error:
        Recipe.load(file, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"methods": []}, "methods: empty; allowed: finetune, prune_structured"),
        ({"methods": "finetune"}, "methods must be a list"),
        ({}, "methods: Field required"),
        ({"method": ["finetune"]}, "unknown field 'method'; did you mean 'methods'"),
        ({"methods": ["fine_tune"]}, r"methods\[0\]: unknown method .*did you mean 'finetune'"),
        ({"methods": [{"distill": {}, "finetune": {}}]}, r"methods\[0\]: one method per list item"),
        ({"methods": [{"finetune": 3}]}, r"methods\[0\]\.finetune: settings must be a mapping"),
        ({"methods": [{"finetune": {"epoch": 3}}]}, "unknown field 'epoch'; did you mean 'epochs'"),
        ({"methods": [{"finetune": {"epochs": 0}}]}, r"finetune: epochs: .*greater than 0 \(got 0"),
        ({"methods": [{"finetune": {"epochs": "many"}}]}, r"epochs: .*number.*\(got 'many'\)"),
        ({"methods": [3]}, r"methods\[0\]: unknown method '3'"),
        ({"methods": [None]}, r"methods\[0\]: unknown method"),
        ({"methods": ["finetune"], "seed": -1}, "seed: .*greater than or equal to 0"),
        ({"methods": ["finetune"], "limit": 2}, "limit: .*greater than or equal to 8"),
        ({"methods": ["finetune"], "measure": {"latnecy": True}}, "did you mean 'latency'"),
        ({"methods": ["finetune"], "measure": {"seconds": 0}}, "measure.seconds: "),
    ],
)
def test_what_is_refused(raw, says, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(raw) if raw else "seed: 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=says) as error:
        Recipe.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("methods", "teacher", "says"),
    [
        (["quantize_int8", "finetune"], None, r"methods\[1\]\.finetune: comes after quantize_int8"),
        (["quantize_int8", "quantize_int8"], None, "put quantize_int8 last"),
        (["finetune", "distill"], None, r"methods\[1\]\.distill: nothing was cut before it"),
        (["distill", "prune_structured"], None, "name a teacher"),
    ],
)
def test_orders_that_cannot_work(methods, teacher, says):
    with pytest.raises(RecipeError, match=says):
        Recipe.parse({"methods": methods, "teacher": teacher})


@pytest.mark.parametrize(
    ("methods", "teacher"),
    [
        (["prune_structured", "distill"], None),
        (["distill"], "some/teacher"),
        (["quantize_int8"], None),
        (["prune_structured", "distill", "prune_structured", "distill"], None),
    ],
)
def test_orders_that_work(methods, teacher):
    assert [
        m.key for m in Recipe.parse({"methods": methods, "teacher": teacher}).methods
    ] == methods


def test_the_order_is_checked_for_python_too():
    with pytest.raises(RecipeError, match="put quantize_int8 last"):
        Recipe(methods=[bc.QuantizeInt8(), bc.Finetune()])


def test_a_recipe_cannot_be_changed(file):
    recipe = Recipe.load(file)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3
    with pytest.raises(ValidationError, match="frozen"):
        recipe.methods[1].keep = 0.1


def test_files_that_are_none(tmp_path):
    with pytest.raises(NotFound, match="did you mean 'quickstart'"):
        Recipe.load("quikstart")
    with pytest.raises(NotFound, match="no such file"):
        Recipe.load(tmp_path / "none.yaml")
    (tmp_path / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    with pytest.raises(InputError, match=r"twice.yaml:2: key 'seed' is given twice"):
        Recipe.load(tmp_path / "twice.yaml")


def documents():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
        return module.documents()  # imports the pages, which lie beside it
    finally:
        sys.path[:] = path


def test_generated_documents_are_up_to_date():
    for path, text in documents().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run docs/generate.py"


def test_the_schema_takes_what_load_takes():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((DOCS / "recipe.schema.json").read_text(encoding="utf-8"))
    assert schema == json.loads(json.dumps(recipe_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    for name in list_names("recipes"):
        jsonschema.validate(yaml.safe_load(resolve("recipes", name).read_text("utf-8")), schema)
    jsonschema.validate({"methods": list(METHODS)}, schema)
    jsonschema.validate(yaml.safe_load(TEXT), schema)
    for bad in ({"method": []}, {"methods": ["nothing"]}, {"methods": [{"distill": {"temp": 1}}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_kprune_of_older_recipes_is_the_method_of_today():
    old = {"scores": "kprune", "allocation": "uneven", "keep": 0.6, "reconstruct": False}
    made = Recipe.parse({"methods": ["finetune", {"prune_structured": old}]})
    assert made.methods[1] == bc.KPrune(keep=0.6, reconstruct=False)
    default = Recipe.parse({"methods": [{"prune_structured": {"scores": "kprune"}}]})
    assert default.methods[0] == bc.KPrune(keep=0.5), "as much as it left then"
    assert Recipe.parse(yaml.safe_load(made.to_yaml())) == made
