# Everything runs in a virtual environment of its own; a stamp in it, older or newer than
# pyproject.toml, tells whether that still has what pyproject.toml asks for.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCHES := schedules tile utilization resnet20 streaming simulation generation model_speed levers

.DEFAULT_GOAL := help
.PHONY: help train test nightly lint bench reproduce area clean

help:
	@echo "make train   train the digits network on the generated accelerator and check every bit"
	@echo "make test    ruff, pyright and the tests: about ten minutes on two cores"
	@echo "make nightly the same with the slow tests"
	@echo "make lint    ruff and pyright"
	@echo "make bench   the benchmarks behind the published tables, into build/bench"
	@echo "make reproduce  write docs/reproduction.md: the papers' numbers and ours"
	@echo "make area    synthesize and report cells"
	@echo "make clean   remove build/ and caches; keeps $(VENV)"

train: $(VENV)/.train-stamp
	$(BIN)/gradloom train digits --check --report build/digits

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

nightly: lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev-stamp
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev-stamp
	set -e; for name in $(BENCHES); do \
	  $(BIN)/python bench/$$name.py --json build/bench/$$name.json; \
	done

reproduce: $(VENV)/.dev-stamp
	$(BIN)/python bench/reproduce.py

area: $(VENV)/.dev-stamp
	$(BIN)/gradloom area edge --report build/area

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.train-stamp: EXTRA = train
$(VENV)/.dev-stamp: EXTRA = dev

$(VENV)/.%-stamp: pyproject.toml
	@$(call require,make,make)
	@$(call require,g++,g++)
	@$(call require,perl,perl)
	@$(call require,$(PYTHON),python3)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than 3.11; rerun with PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module; install it (Debian: apt-get install python3-venv)"; \
	  exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRA)]'
	@touch $@

require = command -v $(1) >/dev/null || { \
  echo "$(1) is not on PATH; install it (Debian: apt-get install $(2))"; exit 1; }
