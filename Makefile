# The front door. Everything happens in .venv; real work is done by pytest, papermill and Snakemake.

DATA ?= phantom
BUDGET ?= quick
SEEDS ?= 0
# fp32 or bf16; empty: what the device trains in by default.
PRECISION ?=
JOBS := $(shell nproc)
# Anything: at the budget quick also what is not the first of its notebook, and the controls.
ALL ?=
# Tests of batches and of kernels mostly wait.
TESTERS := $(shell expr $(shell nproc) + 1)
PYTHON ?= python3
BIN = .venv/bin

# As they were given, whatever is in them: neither make nor the shell reads them once more.
override DATA := $(value DATA)
override BUDGET := $(value BUDGET)
override SEEDS := $(value SEEDS)
override PRECISION := $(value PRECISION)
override JOBS := $(value JOBS)
export DATA BUDGET SEEDS PRECISION JOBS
BATCH = --data "$$DATA" --budget "$$BUDGET" --seeds "$$SEEDS" --precision "$$PRECISION" --jobs "$$JOBS" \
	$(if $(ALL),--every)

.PHONY: figures report ratios places perceptual test fuzz lab bench check-quick kills pictures simulate keep links strip

# The notebooks, executed: make figures DATA=phantom,some/folder BUDGET=quick SEEDS=0,1,2
figures: .venv/installed
	@$(BIN)/python -m nblib batch all $(BATCH)

# Tables, figures and verdicts again, from finished runs or kept scores; trains nothing:
# make report DATA=nih,kermany,fundus_dr BUDGET=laptop
report: .venv/installed
	@$(BIN)/python -m nblib batch report $(BATCH)

# What learns from the unlabeled mix, with 0 to 100 % abnormal images in it.
ratios: .venv/installed
	@$(BIN)/python -m nblib batch ratios $(BATCH)

# What place codes do where nothing but place decides: 135 runs on the sets places, in three hours.
places: .venv/installed
	@$(BIN)/python -m nblib batch places --seeds 0,1,2,3,4 --jobs "$$JOBS"

# A second score of what has run, by a pretrained network's features; trains nothing. `make report`
# shows it.
perceptual: .venv/installed
	@$(BIN)/python -m nblib batch perceptual $(BATCH)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TESTERS) --dist loadfile --no-loadscope-reorder

# As many damaged files as one has time for; `make test` tries 800 of them.
fuzz: .venv/installed
	NBLIB_FUZZ=$(or $(NBLIB_FUZZ),20000) $(BIN)/python -m pytest -q -s tests/fuzz

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

bench: .venv/installed
	$(BIN)/python tests/benchmarks/benchmark.py
	$(BIN)/python tests/benchmarks/growth.py

# Whether methods can be seen to work on a fresh drawing at quick: writes figures/readme/drawn_set.
check-quick: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/checks/quick.py --jobs "$$JOBS"

# SIGKILL at random moments, and whether the same command then ends as if nothing had been:
# make kills N=100
N ?= 100
kills: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/checks/kills.py --kills "$(N)"

# README's pictures of the drawn set, from a finished `make figures`; needs Chromium.
pictures: .venv/installed
	$(BIN)/python tests/checks/pictures.py

# How often the verdict is wrong, and intervals hold the truth: writes data/simulated.
simulate: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/simulations/false_alarms.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/simulations/intervals.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/simulations/pooled.py

# Keeps the per-image scores of finished runs in data/scores, to be committed.
keep: .venv/installed
	$(BIN)/python -m nblib keep "$$DATA" "$$BUDGET"

# Previous and next links at the end of each notebook; the tables of notebooks, there and in README.
links: .venv/installed
	$(BIN)/python -m nblib links
	$(BIN)/python -m nblib readme

# Takes the outputs out of the notebooks, but for the cells that tests compare.
strip: .venv/installed
	$(BIN)/nbstripout --keep-count notebooks/*.ipynb

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
