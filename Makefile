# Set-up and everyday commands. Everything runs in .venv; nothing outside this folder is changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PRESET ?= mini
SEED ?= 0

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow lint format row backbones report benchmark clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python >= 3.11 is needed; say which: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

quickstart: $(READY) ## Install, generate data, train, print and write reports/quickstart/ (3 minutes after installation)
	$(BIN)/python -m fpn_lightning.data.synthetic --root data/synthetic
	$(BIN)/python train.py fit --config configs/quickstart.yaml --experiment.overwrite true
	$(BIN)/python -m fpn_lightning.reporting --preset quickstart

test: $(READY) lint ## Lint, type-check and run the default tests
	$(BIN)/python -m pytest

test-slow: $(READY) ## The tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(READY) ## Ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Let ruff put everything in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

row: $(READY) $(if $(filter mini,$(PRESET)),data/synthetic-mini/synthetic.json) ## Run one row of a table: make row ROW=table1/c_fpn PRESET=mini SEED=0
	$(BIN)/python train.py fit --config configs/$(ROW).yaml --config configs/presets/$(PRESET).yaml --seed_everything $(SEED)

# Trunks side by side: a single map against FPN, two seeds. Finished runs are kept, interrupted ones go on.
BACKBONES := $(foreach trunk,narrow_resnet mobilenet_v2 efficientnet,$(foreach row,a_conv4 c_fpn,$(foreach seed,0 1,\
	runs/mini/backbones/$(trunk)/$(row)/seed$(seed)/metrics.json)))
backbones: $(READY) $(BACKBONES) ## Run the comparison of trunks (reports/mini/backbones.md; an hour on two cores, with -j2)
	$(BIN)/python -m fpn_lightning.reporting --preset mini

runs/mini/backbones/%/metrics.json: | data/synthetic-mini/synthetic.json
	$(BIN)/python train.py fit --config configs/table1/$(word 2,$(subst /, ,$*)).yaml \
		--config configs/presets/mini.yaml --config configs/trunks/$(word 1,$(subst /, ,$*)).yaml \
		--seed_everything $(patsubst seed%,%,$(word 3,$(subst /, ,$*))) \
		$(if $(wildcard $(dir $@)checkpoints/last.ckpt),--ckpt_path last,--experiment.overwrite true)

data/synthetic-mini/synthetic.json: | $(READY)
	$(BIN)/python -m fpn_lightning.data.synthetic --root data/synthetic-mini --train 5000 --val 500 --split tune=500

report: $(READY) ## Collect finished runs and write every table into reports/
	$(BIN)/python -m fpn_lightning.reporting

benchmark: $(READY) ## Measure our parts beside their peers; lines go to reports/benchmarks.md
	for script in benchmarks/[!_]*.py; do \
		grep -q '__main__' $$script && { $(BIN)/python $$script || exit 1; }; \
	done

clean: ## Remove caches; runs, data and the environment stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
