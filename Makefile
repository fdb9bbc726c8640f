# Two commands do everything: `make demo` and `make test`. They need Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests start some hundred processes: where Python may not write its byte code, each would compile all modules anew.
COMPILED := $(BIN)/python -m compileall -q benchmark search tasks trackers tests
.DEFAULT_GOAL := help
.PHONY: help install demo ui test check audit lint platforms newest release slow mutants pinned parity bench clean

help:  ## Show this list.
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reliquant needs Python >= 3.11: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --group dev --editable '.[all]'
	@touch $@

install: $(STAMP)  ## Create .venv and install everything into it.

demo: $(STAMP)  ## Run the six tasks on the embedded default and print the table.
	$(BIN)/reliquant run demo

ui: $(STAMP)  ## Open MLflow on the results (127.0.0.1:5000).
	$(BIN)/reliquant ui

test: $(STAMP)  ## Lint, types and all quick tests.
	$(MAKE) --no-print-directory lint
	@$(COMPILED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -rs -m 'not slow'

slow: $(STAMP)  ## The slow tests (simulated coverage, full-size models).
	@$(COMPILED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -rs -m slow

mutants: $(STAMP)  ## Score the quick tests on 300 small changes of the code (an hour on 2 quiet cores; goes on where it stopped).
	$(BIN)/python -m tests.mutants

pinned: $(STAMP)  ## Thirty of these changes, each on the test that notices it (CI).
	$(BIN)/python -m tests.mutants --pinned

parity: $(STAMP)  ## Compare with CLIP_benchmark (in its own environment), OpenOOD's definitions and pytorch-ood.
	$(BIN)/python -m tests.parity

bench: $(STAMP)  ## Time and memory as ratios, into docs/performance.md (an hour and a half on 2 quiet cores).
	$(BIN)/python -m tests.performance

audit: $(STAMP)  ## Known weaknesses of the pinned packages (needs a network; CI takes it as a warning).
	timeout 120 $(BIN)/uv tool run --quiet pip-audit --progress-spinner off --disable-pip --no-deps -r constraints.txt

lint: $(STAMP)  ## Ruff and mypy --strict.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

platforms: $(STAMP)  ## Types and calls as on Windows and macOS, and the oldest Python that the code needs.
	$(BIN)/mypy --platform win32
	$(BIN)/mypy --platform darwin
	$(BIN)/uv tool run --quiet vermin==1.9.2 --quiet --no-tips --target=3.11- --violations benchmark tasks trackers search

newest: $(STAMP)  ## Quick tests of what differs between Pythons, on the newest of this machine.
	$(BIN)/python -m tests.pythons

release: $(STAMP)  ## Build the wheel, and use it in a fresh environment beside a stranger's tasks.py.
	$(BIN)/python -m tests.release

check: test platforms release newest pinned slow  ## What CI runs.

clean:  ## Remove the environment and caches (not the results).
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
