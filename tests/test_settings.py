"""The settings of a method without what computes: the same as those of its class."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bertcompress.draft import Draft
from bertcompress.errors import RecipeError
from bertcompress.methods import METHODS, method_class
from bertcompress.methods.settings import settings_class, settings_named
from bertcompress.recipe import Recipe
from bertcompress.support.catalogue import list_names
from bertcompress.task import Task
from bertcompress.training import TrainSettings

REFUSED = [
    ("q_bert", {"bits": 8, "high_bits": 4, "high_share": 0.5}),
    ("prune_structured", {"keep": 0}),
    ("flop", {"patience": 2}),
    ("q_bert", {"bits": 8, "high_bits": 4, "high_share": 0.5}),
    ("quantize_int8", {"runtimes": ["tensorrt"]}),
    ("distill", {"learning_rate": "fast"}),
    ("distill", {"schedule": "cosine"}),
    ("q8bert", {"momentum": 0.5}),
    ("gradual_magnitude", {"begin": 0.8, "end": 0.2}),
    ("finetune", {"epochs": "many"}),
    ("distill", {"label_weight": 0, "logit_weight": 0, "hidden_weight": 0}),
    ("q8bert", {"label_weight": 0}),
    ("minilm", {"relation_weight": 0}),
    ("tinybert", {"hidden_weight": 0, "attention_weight": 0}),
    ("theseus", {"max_minutes": 5}),
    ("flop", {"max_minutes": 5, "anneal": 0.2}),
]


@pytest.mark.parametrize("key", METHODS)
def test_fields_types_bounds_and_words_are_those_of_the_class(key):
    light, whole = settings_class(key), method_class(key)
    assert light is not whole
    assert light.model_json_schema() == whole.model_json_schema()
    assert (light.key, light.leaves, light.tier) == (whole.key, whole.leaves, whole.tier)
    assert light().leaves_layers_uneven == whole().leaves_layers_uneven
    assert light().model_dump() == whole().model_dump()


@pytest.mark.parametrize(("key", "knobs"), REFUSED)
def test_what_the_class_refuses_is_refused_in_the_same_words(key, knobs):
    words = []
    for cls in (settings_class(key), method_class(key)):
        with pytest.raises(ValidationError) as error:
            cls(**knobs)
        words.append(error.value.errors(include_url=False, include_context=False))
    assert words[0] == words[1]


def test_uneven_goes_by_the_settings():
    cls = settings_class("prune_structured")
    assert not cls(keep=0.5).leaves_layers_uneven
    assert cls(keep=0.5, allocation="uneven").leaves_layers_uneven
    assert settings_class("kprune")().leaves_layers_uneven


def test_an_unknown_method_gets_its_nearest():
    with pytest.raises(RecipeError, match=r"unknown method 'distil'; did you mean 'distill'"):
        settings_class("distil")


def test_shared_settings():
    light = settings_named("bertcompress.training.settings", "TrainSettings")
    assert list(light.model_fields) == list(TrainSettings.model_fields)


@pytest.mark.parametrize("name", list_names("recipes"))
def test_a_draft_is_written_as_its_recipe(name):
    fields = {"seed": 3, "task": Task.from_files("a.csv", text="x", label="y")}
    given = (["methods.0=prune_structured"] if name == "small" else []), fields
    draft, recipe = (cls.load(name, given[0], **given[1]) for cls in (Draft, Recipe))
    assert draft.to_yaml() == recipe.to_yaml()
    assert draft.resolved_task() == recipe.resolved_task()
