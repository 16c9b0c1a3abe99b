"""`report_to` of a recipe: each training is a run of its own at the Trainer's loggers."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace

import pytest
from test_runs import TRAIN, place, recipe  # noqa: F401
from transformers import TrainerCallback
from transformers.integrations import integration_utils

import bertcompress as bc
from bertcompress.errors import InputError, RecipeError

pytestmark = pytest.mark.usefixtures("without_figures")

METHODS = [
    {"finetune": {**TRAIN, "max_steps": 4}},
    {"prune_structured": {"keep": 0.5, "rows": 8}},
    {"distill": {**TRAIN, "max_steps": 4}},
]


class Service:
    """Stands in for W&B and MLflow: what was started, logged and ended, by the names of runs."""

    def __init__(self, monkeypatch):
        self.started, self.logged, self.current = [], {}, {"wandb": None, "mlflow": None}
        for name in self.current:
            module = ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            monkeypatch.setitem(sys.modules, name, module)
        self.wandb, self.mlflow = sys.modules["wandb"], sys.modules["mlflow"]
        self.wandb.run = None
        self.wandb.finish = lambda: setattr(self.wandb, "run", None)
        self.mlflow.active_run = lambda: self.current["mlflow"]
        self.mlflow.end_run = lambda: self.current.update(mlflow=None)
        monkeypatch.setattr(
            integration_utils, "get_reporting_integration_callbacks", self.callbacks
        )

    def callbacks(self, names):
        return [lambda name=name: _Callback(self, name) for name in names]


class _Callback(TrainerCallback):
    def __init__(self, service, name):
        self.service, self.name = service, name

    def on_train_begin(self, args, state, control, **kwargs):
        if self.name == "wandb" and self.service.wandb.run is None:
            self.service.wandb.run = SimpleNamespace(name=args.run_name)
            self.service.started.append((self.name, args.run_name))
        if self.name == "mlflow" and self.service.current["mlflow"] is None:
            self.service.current["mlflow"] = SimpleNamespace(name=args.run_name)
            self.service.started.append((self.name, args.run_name))

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.service.logged.setdefault(args.run_name, set()).update(logs)


@pytest.mark.slow
def test_each_training_is_a_run_named_by_stage_method_and_control(place, monkeypatch):  # noqa: F811
    pytest.importorskip("tensorboard")
    service = Service(monkeypatch)
    wanted = ["tensorboard", "wandb", "mlflow"]
    run = bc.run(recipe(place, METHODS, report_to=wanted), place / "mine")
    names = ["mine/01-finetune", "mine/03-distill", "mine/03-distill-control"]
    assert sorted(name for kind, name in service.started if kind == "wandb") == names
    assert sorted(name for kind, name in service.started if kind == "mlflow") == names
    assert service.wandb.run is None and service.mlflow.active_run() is None
    assert all({"loss", "eval_selection"} <= service.logged[name] for name in names)
    folders = {path.name for path in (run.folder / "logs").iterdir()}
    assert folders == {name.partition("/")[2] for name in names}
    assert all(any(folder.iterdir()) for folder in (run.folder / "logs").iterdir())
    assert run.recipe.report_to == ("tensorboard", "wandb", "mlflow")


def test_a_logger_that_is_missing_or_unknown_is_refused_before_anything_is_written(place):  # noqa: F811
    assert bc.Recipe.parse({"methods": ["finetune"], "report_to": "none"}).report_to == ()
    assert bc.Recipe.parse({"methods": ["finetune"], "report_to": "mlflow"}).report_to == (
        "mlflow",
    )
    with pytest.raises(RecipeError, match="report_to"):
        bc.Recipe.parse({"methods": ["finetune"], "report_to": ["comet"]})
    if "mlflow" in sys.modules:
        pytest.skip("mlflow is installed")
    with pytest.raises(InputError, match="report_to: 'mlflow' is not installed; pip"):
        bc.run(recipe(place, METHODS, report_to="mlflow"), place / "none")
    assert not list(place.glob("*none*"))
