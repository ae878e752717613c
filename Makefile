# make demo   installs what the package needs and lets the bundled model answer about a form at 100, 25 and 10 % of its tokens
# make test   installs everything, then lints, checks types and runs the tests
PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

# Large tensors stay on the heap instead of going back to the kernel: on small virtual machines half the time is page faults.
export MALLOC_MMAP_THRESHOLD_ := 8589934592
export MALLOC_TRIM_THRESHOLD_ := 8589934592
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint types clean

help:
	@sed -n '/^# make/s/^# //p' Makefile
	@echo "also: test-slow, lint, types, clean; variables: PYTHON=$(PYTHON) TORCH=$(TORCH) WORKERS=$(WORKERS)"

demo: $(VENV)/.runtime
	@HF_HUB_OFFLINE=1 $(BIN)/arrcoc demo --out demo_out

test: lint types
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow"

test-slow: $(VENV)/.full
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m slow

lint: $(VENV)/.full
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

# A tree of links gives the checker the import names: `arrcoc` for modeling_arrcoc/, `arrcoc.processing` for processing/.
types: $(VENV)/.full
	@rm -rf build/types && mkdir -p build/types/arrcoc
	@ln -s $(CURDIR)/arrcoc_arguments.py $(CURDIR)/arrcoc_cli.py build/types/
	@ln -s $(CURDIR)/modeling_arrcoc/* $(CURDIR)/processing build/types/arrcoc/
	@MYPYPATH=build/types $(BIN)/mypy -p arrcoc -m arrcoc_cli

# torch first and alone: the packages that depend on it then find it in place, whatever index it came from.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "ARR-COC needs Python 3.10 or newer, and $(PYTHON) is older or missing: name another with PYTHON=..." >&2; exit 1; }
	@echo "Creating $(VENV) and installing $(TORCH) (minutes on a first run) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) "$(TORCH)"
	@touch $@

$(VENV)/.runtime: $(VENV)/.torch setup.py constraints.txt
	@echo "Installing arrcoc ..."
	@$(PIP) --editable . --constraint constraints.txt
	@touch $@

$(VENV)/.full: $(VENV)/.torch setup.py constraints.txt
	@echo "Installing arrcoc with its training, evaluation and development extras ..."
	@$(PIP) --editable ".[train,eval,dev]" --constraint constraints.txt
	@touch $(VENV)/.runtime $@

clean:
	rm -rf $(VENV) build dist demo_out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
