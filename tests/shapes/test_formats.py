"""Folders of every format that was ever written still load, to the answers of then."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
import transformers
from tests_support import tiny_model

import bertcompress as bc
from bertcompress.shapes import FAMILIES, Heads, apply_edit, family_named

FOLDERS = sorted((Path(__file__).parents[1] / "fixtures").glob("model-format-*"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("door", ["ours", "shipped code"])
def test_an_old_folder_answers_as_then(folder, door):
    if door == "ours":
        model = bc.load(folder).model
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, trust_remote_code=True
        )
    told = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor(told["input_ids"])).logits
    torch.testing.assert_close(logits, torch.tensor(told["logits"]), atol=1e-5, rtol=1e-5)


def test_two_shipped_files_in_one_module_leave_both_models_whole(tmp_path, monkeypatch):
    """transformers 4.57 runs the files of two folders of one name in the same module."""
    shared = types.ModuleType("shared_module")
    monkeypatch.setitem(sys.modules, "shared_module", shared)
    shared.__file__ = str(tmp_path / "modeling_bertcompress.py")
    models = {}
    for family in ("bert", "roberta"):
        edited = apply_edit(tiny_model(family), Heads([[0, 2], [], [1]]))
        edited.save_pretrained(tmp_path / family)
        source = (tmp_path / family / "modeling_bertcompress.py").read_text(encoding="utf-8")
        Path(shared.__file__).write_text(source, encoding="utf-8")
        exec(compile(source, shared.__file__, "exec"), vars(shared))
        cls = getattr(shared, type(edited).__name__)
        models[family] = cls.from_pretrained(tmp_path / family).eval()
    for family, model in models.items():
        model.save_pretrained(tmp_path / "again" / family)
        for name in ("modeling_bertcompress.py", "model.safetensors"):
            first, second = tmp_path / family / name, tmp_path / "again" / family / name
            assert first.read_bytes() == second.read_bytes()


def test_there_is_one_of_each_format():
    from bertcompress.shapes.edits import FORMAT

    written = {
        json.loads((f / "config.json").read_text())["bertcompress"]["format"] for f in FOLDERS
    }
    assert written == {*range(1, FORMAT + 1)}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_names_meet_in_the_one_shipped_file(family):
    """The modules become one file: a helper of one would silently take the place of another's."""
    import ast

    from bertcompress.shapes.modeling import bundle_source

    names = [
        node.name
        for node in ast.parse(bundle_source(family)).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert sorted(names) == sorted(set(names))
    theirs = {type(family_named(other)).__name__ for other in FAMILIES} & set(names)
    bases = {base.__name__ for base in type(family_named(family)).__mro__}
    kin = {"RobertaFamily", "XLMRobertaFamily", "CamembertFamily"}  # one file
    assert theirs <= bases | (kin if bases & kin else set())
