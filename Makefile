# Installation and common commands. Everything is installed in .venv; nothing outside this folder changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PRESET ?= mini
SEED ?= 0
CORES ?= 2
COCO ?= data/coco
GPUS ?= 1

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow lint format row mini small backbones tuning report benchmark clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python >= 3.11 is needed. Give its path: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

quickstart: $(READY) ## Install, generate data, train, print and write reports/quickstart/ (a minute after installation)
	$(BIN)/python -m fpn_lightning.data.synthetic --root data/synthetic
	$(BIN)/python train.py fit --config configs/quickstart.yaml --experiment.overwrite true
	$(BIN)/python -m fpn_lightning.reporting --preset quickstart --replace

test: $(READY) lint ## Lint, type-check and run the default tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test-slow: $(READY) ## The tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(READY) ## Ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Fix and format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# With -n, make and Snakemake only print what they would do. Otherwise, a lock allows one call at a time in this folder.
# The lock ends with its process, even after kill -9. Snakemake's own lock would remain.
DRY_RUN := $(if $(findstring n,$(firstword -$(MAKEFLAGS))),--dry-run)
LOCK := .snakemake/make.lock
WAIT := mkdir -p $(dir $(LOCK)); flock --nonblock $(LOCK) true || echo "Waiting: another make runs rows here"; flock $(LOCK)
SNAKEMAKE = +@$(if $(DRY_RUN),,$(WAIT)) $(BIN)/snakemake --nolock --cores $(CORES) --resources gpu=$(GPUS) --config coco=$(COCO) $(DRY_RUN)

row: $(READY) ## Run or resume a row of a table: make row ROW=table1/c_fpn PRESET=mini SEED=0
	@: $(or $(ROW),$(error ROW is not set. Give a row: make row ROW=table1/c_fpn))
	$(SNAKEMAKE) -- runs/$(PRESET)/$(ROW)/seed$(SEED)/metrics.json

mini: $(READY) ## Run all rows with preset mini, three seeds each, and write reports/mini/table1.md to table6.md (3 hours)
	$(SNAKEMAKE) --forcerun report -- mini

small: $(READY) ## Run rows of Tables 1, 2, 3, 5 and learning curves on 842 images of COCO, from the folder COCO=data/coco
	$(SNAKEMAKE) --forcerun report -- small

backbones: $(READY) ## Compare backbones and write reports/mini/backbones.md and deep_c2.md (half an hour on two cores)
	$(SNAKEMAKE) --forcerun report -- reports/mini/backbones.md

tuning: $(READY) ## Compare learning rates and write reports/mini/tuning.md; PRESET=small writes reports/small/tuning.md
	$(SNAKEMAKE) --forcerun report -- reports/$(PRESET)/tuning.md

report: $(READY) ## Collect the records of finished runs and write all tables into reports/
	$(BIN)/python -m fpn_lightning.reporting

benchmark: $(READY) ## Compare the speed of our code with other libraries, and append to reports/benchmarks.md
	for script in benchmarks/[!_]*.py; do \
		grep -q '__main__' $$script && { $(BIN)/python $$script || exit 1; }; \
	done

clean: ## Remove caches; runs, data and the environment stay
	rm -rf .snakemake .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
