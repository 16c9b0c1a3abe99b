"""What holds for every method: a new line in the table is tested by being there."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import re
from typing import Any

import pytest
import torch
from tests_support import FAMILIES, answer, first_fast, tiny_inputs, tiny_model, tiny_tokenizer
from training_support import toy_data

import bertcompress as bc
from bertcompress.deployment import Deployment, Measurement, Product
from bertcompress.engines.distillation.teachers import LiveTeacher
from bertcompress.errors import RecipeError
from bertcompress.measure.footprint import size_of
from bertcompress.method import Context, Method, Models
from bertcompress.methods import METHODS, RESEARCH, method_class
from bertcompress.recipe import Recipe
from bertcompress.shapes import ShapeError

PAPER = re.compile(r"\b\d{4}\.\d{4,5}\b")
FAST = {"epochs": 1, "batch_size": 64, "precision": "fp32", "rows": 32, "points": 3}
"""Values of common settings that make a step take a second."""
OWN: dict[str, dict[str, Any]] = {
    "trim_vocabulary": {"size": 20},
    "factorize_embedding": {"size": 4},
    "factorize_linear": {"keep": 0.5},
    "flop": {"keep": 0.5},
    "q_bert": {"group": 16, "shards": 2},
    "student": {"layers": 2, "hidden_size": 8},
    "theseus": {"layers": 2, "replacing_epochs": 1},
    "snapshot": {"cycles": 2, "batch_size": 16},
    "quantize_int8": {"runtimes": ("onnxruntime",)},
}
"""Settings without which a method has nothing to do on a tiny model."""


def quick(key):
    """The method, on a tiny model in a second."""
    cls = method_class(key)
    common = {name: value for name, value in FAST.items() if name in cls.model_fields}
    return cls(**common | OWN.get(key, {}))


REFUSED = {("share_layers", "albert"), ("theseus", "albert"), ("online_peers", "albert")}
"""Families on which a method has nothing to do, and says so."""


@pytest.fixture(scope="module")
def data():
    return toy_data()


def module_of(key):
    return importlib.import_module(METHODS[key][0].partition(":")[0])


def applied(key, model, data, workdir):
    """The method's product on a copy of a model, with that model as the teacher."""
    tokenizer = tiny_tokenizer()
    teacher = LiveTeacher(copy.deepcopy(model), tokenizer, data)
    models = Models(teacher, *[lambda: Product(copy.deepcopy(model), tokenizer)] * 2)
    context = Context(data.task, data, models, torch.device("cpu"), 0, workdir)
    return quick(key).apply(Product(copy.deepcopy(model), tokenizer), context)


@pytest.mark.parametrize("key", METHODS)
def test_one_name_everywhere(key):
    cls, module = method_class(key), module_of(key)
    stem = module.__name__.rpartition(".")[2]
    assert cls.key == key
    # Rows that are variants of one class stand in the file of that class.
    variants = [base.__name__.lower() for base in cls.__mro__[1:]]
    assert stem == key or key.endswith(f"_{stem}") or stem.replace("_", "") in variants
    assert cls.__name__.lower() == key.replace("_", "")
    assert cls.__name__ in module.__all__
    assert callable(getattr(bc, key)), "the verb for those without a recipe"
    assert getattr(bc, cls.__name__) is cls
    assert issubclass(cls, Method)


@pytest.mark.parametrize("key", METHODS)
def test_the_default_instance_works(key):
    method = method_class(key)()
    assert type(method).model_validate(json.loads(method.model_dump_json())) == method
    assert method.leaves in ("weights", "shape", "files", "measurement")
    for words, control in method.controls().items():
        assert words and isinstance(control, Method) and control != method


@pytest.mark.parametrize("key", METHODS)
def test_the_module_is_the_card(key):
    card = inspect.getdoc(module_of(key))
    assert PAPER.search(card), "cites no paper"
    assert PAPER.search(method_class(key).paper)
    assert "Costs" in card
    assert re.search(r"\bNot\b", card), "does not say when not to use it"
    assert re.search(r"speed|fast", card), "does not say whether it speeds anything up"


@pytest.mark.parametrize("key", METHODS)
def test_every_setting_is_described(key):
    for name, field in method_class(key).model_fields.items():
        assert field.description, f"{key}.{name}"
        assert len(field.description) > 10


@pytest.mark.parametrize("key", METHODS)
def test_a_recipe_with_it_survives_yaml(key, tmp_path):
    method = quick(key)
    recipe = Recipe(model="some/model", task="embedded", methods=[method], teacher="some/teacher")
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == recipe
    path.write_text(f"methods: [{key}]\nteacher: some/teacher\n", encoding="utf-8")
    assert Recipe.load(path).methods == (method_class(key)(),)


CONTROLS = {
    "prune_structured": ("random heads and neurons", {"scores": "random"}),
    "factorize_linear": ("plain SVD", {"metric": "svd"}),
    "factorize_embedding": ("every token alike", {"weighted": False}),
}


@pytest.mark.parametrize("key", CONTROLS)
def test_a_choice_that_trains_nothing_has_the_blind_choice_beside_it(key, data, tmp_path, bert):
    """Of the same size: what is chosen by the data has to be worth its while."""
    method, (words, blind) = quick(key), CONTROLS[key]
    ((name, control),) = method.controls().items()
    assert (name, control) == (words, method.model_copy(update=blind))
    assert control.controls() == {}, "it ends there"
    sizes = []
    for number, each in enumerate((method, control)):
        context = Context(
            data.task, data, Models(None), torch.device("cpu"), 0, tmp_path / str(number)
        )
        done = each.apply(Product(copy.deepcopy(bert), tiny_tokenizer()), context)
        sizes.append(sum(p.numel() for p in done.model.parameters()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_what_has_no_blind_choice_of_its_shape_has_no_control():
    for knobs in ({"keep": 1.0}, {"allocation": "uneven"}, {"scores": "random"}):
        assert bc.PruneStructured(**knobs).controls() == {}
    for key in ("kprune", "share_layers", "trim_vocabulary"):
        assert quick(key).controls() == {}
        assert "No control: " in inspect.cleandoc(method_class(key).__doc__ or "")


QUESTIONS = {"share_left": "keep", "rows_read": "rows", "makes_files_for": "runtimes"}


@pytest.mark.parametrize("key", METHODS)
def test_what_a_run_asks_is_answered_by_the_setting(key):
    """A run estimates times and sizes from these, and reads no setting by its name."""
    method = method_class(key)()
    for question, setting in QUESTIONS.items():
        answered = getattr(method, question)
        if setting in type(method).model_fields:
            assert answered == getattr(method, setting), question
        else:
            assert answered == getattr(Method, question).fget(method), question
    assert method.tries_again == ("max_drop" in type(method).model_fields)


def test_the_research_tier_is_the_table_of_it():
    assert {key for key in METHODS if method_class(key).tier == "research"} == RESEARCH


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'distill'"):
        method_class("distil")


PROBES = [key for key in METHODS if method_class(key).leaves == "measurement"]
OPEN = [key for key in METHODS if key not in ("quantize_int8", *PROBES)]


@pytest.mark.parametrize("key", PROBES)
def test_a_probe_measures_and_is_plain(key, data, tmp_path, bert):
    found = applied(key, tiny_model(num_labels=2), data, tmp_path)
    assert isinstance(found, Measurement)
    assert found.title and found.words and found.figures
    assert Measurement.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("family", first_fast(FAMILIES))
@pytest.mark.parametrize("key", OPEN)
def test_what_comes_out_is_no_larger_and_reloads_to_the_bit(key, family, data, tmp_path):
    model = tiny_model(family, num_labels=2)
    if (key, family) in REFUSED:
        with pytest.raises(ShapeError):
            method_class(key)().check(model)
        return
    product = applied(key, model, data, tmp_path / "work")
    batch = tiny_inputs()
    batch["input_ids"].clamp_(max=product.model.config.vocab_size - 1)
    before = answer(model, batch)
    json.dumps(product.findings.facts)
    folders = {}
    for name, each, convert in (
        ("before", model, True),
        ("working", product.model, False),
        ("shipped", product.model, True),
    ):
        folders[name] = bc.save(each, tmp_path / name, product.tokenizer, convert=convert)
    sizes = {n: (f / "model.safetensors").stat().st_size for n, f in folders.items()}
    # A record of edits in the header is no weight.
    assert max(sizes["working"], sizes["shipped"]) <= sizes["before"] + 1_000
    if method_class(key).leaves != "weights":
        assert sizes["shipped"] < sizes["before"]
    after = answer(product.model.eval(), batch)
    assert not torch.equal(before, after), "nothing happened"
    for name in ("working", "shipped"):
        assert torch.equal(answer(bc.load(folders[name]).model, batch), after)


@pytest.mark.parametrize("key", [k for k in METHODS if method_class(k).leaves == "files"])
def test_files_that_are_made_are_no_larger(key, data, tmp_path, bert):
    pytest.importorskip("onnxruntime")
    # Wide enough that weights and not the file's structure decide the size.
    model = tiny_model("bert", num_labels=2, hidden_size=128, intermediate_size=256)
    product = applied(key, model, data, tmp_path / "work")
    bc.save(model, tmp_path / "model", product.tokenizer)
    dense = size_of(Deployment("torch", "fp32", tmp_path / "model")).size_mb
    sizes = {each.precision: size_of(each).size_mb for each in product.deployments}
    assert set(sizes) <= {"fp32", "int8", "int4-8"}
    assert min(sizes.values()) < 0.5 * dense
    assert not any(each.simulated for each in product.deployments)
