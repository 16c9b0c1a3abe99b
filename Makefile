# `make demo` and `make test` set up their environment (.venv) by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Passive waiting: two training processes on one machine do not slow each other down. Timing unsets it.
export GOMP_SPINCOUNT = 0
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test lint check schema docs optimum older clean

$(VENV)/.demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and pinned: left to the resolver it may come with gigabytes of CUDA libraries.
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e ".[demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

demo: $(VENV)/.demo  ## the main job on an embedded model and task, no network; leaves runs/quickstart
	rm -rf runs/quickstart runs/.quickstart.partial
	$(BIN)/bertcompress run quickstart --out runs/quickstart

test: $(VENV)/.dev  ## the test suite
	$(BIN)/python -m pytest -n 2 -q $(ARGS)

lint: $(VENV)/.dev  ## what pre-commit runs: style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint  ## style, types and the fast tests
	$(BIN)/python -m pytest -n 2 -q -m "not slow"

schema: $(VENV)/.demo  ## regenerate docs/*.schema.json, the tables in docs/ and README.md, docs/reference
	$(BIN)/python docs/generate.py

$(VENV)/.docs: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

docs: $(VENV)/.docs  ## the pages as a site, in site/; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf $(VENV) runs build dist site

# The ONNX folders open in optimum's ORTModelFor...: optimum-onnx holds transformers below 4.58, so it
# gets an environment of its own, which also runs the rest of the suite on that line of transformers.
.venv-optimum/.done: pyproject.toml
	test -x .venv-optimum/bin/python || $(PYTHON) -m venv .venv-optimum
	.venv-optimum/bin/python -m pip install --quiet --upgrade pip
	.venv-optimum/bin/python -m pip install --quiet torch==2.13.0
	.venv-optimum/bin/python -m pip install --quiet -e ".[dev]" "optimum-onnx[onnxruntime]>=0.1,<0.2" "transformers<4.58"
	touch $@

# What touches classes, weights, tokenizers, training, export and the Hub of transformers.
OLDER = tests/shapes tests/test_artefact.py tests/test_stock_albert.py tests/test_tokenizing.py \
	tests/test_training.py tests/test_results.py tests/runtimes/test_onnx.py tests/hub/test_client.py

older: .venv-optimum/.done  ## the tests of what touches transformers, on the 4.57 line
	.venv-optimum/bin/python -m pytest -n 2 -q -m "not slow" $(OLDER)

optimum: .venv-optimum/.done  ## prove that optimum opens the ONNX folders; the suite on transformers 4.57
	.venv-optimum/bin/python -m pytest -n 2 -q $(ARGS)
