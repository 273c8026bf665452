# Two commands matter: `make demo` and `make test`. Each sets up what it needs, and is quick when that is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
SOURCES := $(wildcard csrc/*.h csrc/*/*)

.PHONY: help demo test lint bench gpu-check test-cuml clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## train ResNet-50 on 5,000 digits for three minutes and explain it: runs/demo/analysis/report.html
	$(BIN)/weightscale demo

test: $(INSTALLED)  ## every test, and every example in the documentation
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## style, types, and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## the pass against its rivals; then the README's table and figure
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-json=bench/results/cpu.json
	$(BIN)/python bench/draw.py bench/results/cpu.json

gpu-check:  ## all that needs a GPU: tests, sanitizer, benchmarks; PYTHON=... is the python with torch to use
	$(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),$(PYTHON)),$(PYTHON)) bench/gpu_check.py

test-cuml: $(INSTALLED)  ## the cuML backend against the real package: installs 2.5 GB; its numbers need a GPU
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[cuml]'
	WEIGHTSCALE_FAST_REQUIRE_CUML=1 $(BIN)/python -m pytest tests/test_cuml.py

clean:  ## forget the environment and the built extension
	rm -rf $(VENV) build *.egg-info weightscale_fast/_C*

# The environment and the extension in it, again whenever the package's metadata or the C++ sources change.
$(INSTALLED): pyproject.toml setup.py $(SOURCES) | $(VENV)/torch
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

# torch first: the extension is built against it.
$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --upgrade pip 'setuptools>=77' wheel
	$(BIN)/pip install torch torchvision
	@touch $@
