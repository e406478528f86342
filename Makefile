# The front door. Everything happens in .venv; real work is done by pytest, papermill and Snakemake.

DATA ?= phantom
BUDGET ?= quick
SEEDS ?= 0
JOBS ?= $(shell nproc)
PYTHON ?= python3
ROOT = $(abspath $(or $(NBLIB_ROOT),.))
BIN = .venv/bin

.PHONY: figures test lab bench keep links strip

# Every notebook, executed: make figures DATA=phantom,some/folder BUDGET=quick SEEDS=0,1,2
figures: .venv/installed
	@mkdir -p "$(ROOT)/data"
	@flock -n -E 75 "$(ROOT)/data/.batch.lock" $(BIN)/snakemake -s notebooks/Snakefile --nolock \
	    -j $(JOBS) --config 'data=$(DATA)' budget=$(BUDGET) 'seeds=$(SEEDS)' || \
	    { code=$$?; [ $$code -ne 75 ] || echo "Another batch is running in $(ROOT)."; exit $$code; }

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

bench: .venv/installed
	$(BIN)/python tests/benchmarks/benchmark.py

# Keeps the per-image scores of finished runs in data/scores, to be committed.
keep: .venv/installed
	$(BIN)/python -m nblib.report keep $(DATA) $(BUDGET)

# Previous and next links at the end of each notebook.
links: .venv/installed
	$(BIN)/python -m nblib.notebooks links

# Takes the outputs out of the notebooks, but for the cells that tests compare.
strip: .venv/installed
	$(BIN)/nbstripout --keep-count notebooks/*.ipynb

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
