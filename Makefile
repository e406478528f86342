# The front door. Everything happens in .venv; real work is done by pytest, papermill and Snakemake.

DATA ?= phantom
BUDGET ?= quick
SEEDS ?= 0
JOBS ?= $(shell nproc)
# Tests of batches and of kernels mostly wait.
TESTERS ?= $(shell expr $(JOBS) + 1)
PYTHON ?= python3
ROOT = $(abspath $(or $(NBLIB_ROOT),.))
BIN = .venv/bin

SNAKEMAKE = $(BIN)/snakemake -s notebooks/Snakefile --nolock -j $(JOBS)
CONFIG = --config 'data=$(DATA)' budget=$(BUDGET) 'seeds=$(SEEDS)' $(AS_IT_IS)

.PHONY: figures report ratios test lab bench keep links strip

# Every notebook, executed: make figures DATA=phantom,some/folder BUDGET=quick SEEDS=0,1,2
figures: TARGET = all
# Tables, figures and verdicts again, from finished runs or kept scores; trains nothing:
# make report DATA=nih,kermany,fundus_dr BUDGET=laptop
report: TARGET = report --forcerun results
report: AS_IT_IS = as_it_is=1
# SAGAN and its kin with 0 to 100 % abnormal images in the unlabeled mix.
ratios: TARGET = ratios
figures report ratios: .venv/installed
	@mkdir -p "$(ROOT)/data"
	@flock -n -E 75 "$(ROOT)/data/.batch.lock" $(SNAKEMAKE) $(TARGET) $(CONFIG) || \
	    { code=$$?; [ $$code -ne 75 ] || echo "Another batch is running in $(ROOT)."; exit $$code; }

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n $(TESTERS) --dist loadfile --no-loadscope-reorder

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

bench: .venv/installed
	$(BIN)/python tests/benchmarks/benchmark.py

# Keeps the per-image scores of finished runs in data/scores, to be committed.
keep: .venv/installed
	$(BIN)/python -m nblib.results.report keep $(DATA) $(BUDGET)

# Previous and next links at the end of each notebook; the tables of notebooks, there and in README.
links: .venv/installed
	$(BIN)/python -m nblib.notebooks links
	$(BIN)/python -m nblib.results.readme

# Takes the outputs out of the notebooks, but for the cells that tests compare.
strip: .venv/installed
	$(BIN)/nbstripout --keep-count notebooks/*.ipynb

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
