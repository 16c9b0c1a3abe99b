"""A teacher that is a sentence embedder of its own: its pooling and prompts are what it teaches."""

from __future__ import annotations

import json

import pytest
from embedder_support import tiny_embedder, write_texts
from tests_support import tiny_tokenizer

import bertcompress as bc
from bertcompress.errors import ModelError
from bertcompress.models.sentence import settled_pooling
from bertcompress.runs.prepare import prepare
from bertcompress.runs.teacher import weights_digest

PROMPTS = {"query": "good ", "document": "bad "}


@pytest.fixture
def place(tmp_path):
    write_texts(tmp_path / "train.jsonl", 60)
    write_texts(tmp_path / "test.jsonl", 30, 5)
    tiny_embedder(tmp_path / "m")
    tiny_embedder(tmp_path / "plain")
    tiny_embedder(tmp_path / "prompted", prompts=PROMPTS, default_prompt="document")
    return tmp_path


def begun(place, teacher: str, **distill):
    task = bc.Task.from_texts(place / "train.jsonl", place / "test.jsonl")
    methods = [{"prune_structured": {"keep": 0.5}}, {"distill": {"epochs": 1, **distill}}]
    fields = {"model": str(place / "m"), "task": task, "teacher": str(place / teacher)}
    return prepare(bc.Recipe.parse({**fields, "methods": methods}), None, lambda _: None)


def first_tokens(data) -> list[int]:
    return data.encoded(tiny_tokenizer(), "train").dataset[0]["input_ids"]


def test_a_teacher_reads_the_texts_with_its_own_prompts(place):
    """It taught what it never answers: the prompts were those of the model that learns."""
    start = begun(place, "prompted", hidden_weight=0.0)
    word = tiny_tokenizer().convert_tokens_to_ids("bad")
    own, theirs = first_tokens(start.data), first_tokens(start.teacher_data)
    assert theirs == [own[0], word, *own[1:]]
    assert any("its own prompts" in note for note in start.notes)
    assert begun(place, "plain", hidden_weight=0.0).teacher_data is None


def test_tokens_that_prompts_move_are_not_compared(place):
    with pytest.raises(ModelError, match=r"methods\[1\].*vocabularies or prompts"):
        begun(place, "prompted", hidden_weight=1.0)


@pytest.mark.usefixtures("without_figures")
def test_a_stage_learns_what_the_prompted_teacher_answers(place):
    task = bc.Task.from_texts(place / "train.jsonl", place / "test.jsonl")
    steps = {"max_steps": 4, "batch_size": 8, "learning_rate": 1e-3, "hidden_weight": 0.0}
    methods = [{"prune_structured": {"keep": 0.5}}, {"distill": {**steps, "precision": "fp32"}}]
    found = {}
    for teacher in ("plain", "prompted"):
        fields = {"model": str(place / "m"), "task": task, "teacher": str(place / teacher)}
        measure = {"latency": False, "controls": False}
        recipe = bc.Recipe.parse({**fields, "methods": methods, "measure": measure})
        model = bc.load(bc.run(recipe, place / f"run-{teacher}").folder).model
        found[teacher] = [p.detach() for p in model.parameters()]
    assert any((a != b).any() for a, b in zip(*found.values(), strict=True))


def test_pooling_is_part_of_what_a_model_is(place):
    """Its file lies in a folder of its own, and a stage taught by the old one came back."""
    before = weights_digest(str(place / "plain"))
    assert weights_digest(str(place / "plain")) == before
    file = place / "plain" / "1_Pooling" / "config.json"
    pooled = {**json.loads(file.read_text()), "pooling_mode_cls_token": True}
    file.write_text(json.dumps({**pooled, "pooling_mode_mean_tokens": False}))
    assert weights_digest(str(place / "plain")) != before


def test_a_model_that_is_compared_otherwise_is_told(tmp_path):
    lines = []
    for fields in (
        {"similarity": "dot", "normalize": False},
        {"similarity": "dot", "normalize": True},
        {"similarity": "cosine", "normalize": False},
    ):
        folder = tiny_embedder(tmp_path / str(len(lines)), **fields)
        lines.append(settled_pooling(bc.load(folder).model.config, folder, "m")[1])
    assert "compared by dot" in lines[0] and lines[1:] == [None, None]
