# Two commands matter: `make demo` and `make test`. Each sets up what it needs, and is quick when that is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
OLDEST := .venv-oldest
FRESH := build/fresh
SOURCES := $(wildcard csrc/*.h csrc/*/*)

.PHONY: help demo test quick test-oldest lint ext docs wheel bench gpu-check test-cuml clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## train ResNet-50 on 5,000 digits for three minutes and explain it: runs/demo/analysis/report.html
	$(BIN)/weightscale demo

test: $(INSTALLED)  ## every test, and every example in the documentation
	$(BIN)/python -m pytest

quick: $(INSTALLED)  ## the tests that matter while you edit: about two minutes
	$(BIN)/python -m pytest $(QUICK_TESTS)
	$(BIN)/python -m pytest tests/test_layer_sums.py -k 'not triton and not cuda_on_cpu and not hundred'

# Chosen by measured CPU time: every file here takes under 20 seconds. None trains a network, starts several processes or
# interprets a kernel for long.
QUICK := layering layers history groups clean curve_files reduce recipe cluster ring
QUICK_TESTS := $(QUICK:%=tests/test_%.py)

# Two promises. The extension built with the newest torch serves the oldest: Python takes the package, and so that
# extension, from this folder. The extension also builds with the oldest: `pytest` alone takes the package that pip
# installed. The build has a folder of its own, so that no other build reuses its files, nor it theirs.
test-oldest: $(INSTALLED) $(OLDEST)/torch  ## the pass, the ring and the op on torch 2.10, the oldest promised: 7 GB more
	$(OLDEST)/bin/python -m pytest $(OLDEST_WARNINGS) $(OLDEST_TESTS)
	rm -rf $(OLDEST)/build
	$(OLDEST)/bin/pip install --quiet --no-build-isolation $(OLDEST_BUILD) .
	$(OLDEST)/bin/pytest --import-mode=importlib -k 'not triton' tests/test_layer_sums.py

OLDEST_TESTS := $(patsubst %,tests/test_%.py,layer_sums ring backends triton cuda_build snapshot)
OLDEST_BUILD := $(addprefix --config-settings=--global-option=,build --build-base=$(OLDEST)/build)
# Of torch 2.10 itself: its Triton's interpreter calls int() on arrays of one element, and its compiler is partly written
# in TorchScript.
OLDEST_WARNINGS := \
	-W 'ignore:Conversion of an array with ndim > 0 to a scalar:DeprecationWarning:triton.runtime.interpreter' \
	-W 'ignore:`torch.jit.script_method` is:DeprecationWarning:torch.jit._script'

lint: $(INSTALLED)  ## style, types, and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ext: $(VENV)/torch  ## build the C++ again after a change in csrc/; WEIGHTSCALE_FAST_CUDA=0 skips the CUDA pass
	$(BIN)/python setup.py --quiet build_ext --force --inplace
	$(if $(wildcard $(INSTALLED)),@touch $(INSTALLED))

docs: $(INSTALLED)  ## the documentation: build/docs/index.html
	$(BIN)/python -m sphinx -q -W docs build/docs

# The wheel is built from the sdist, so the sdist is tried too. torch brings its own libraries; all others must be
# those of every Linux. The fresh environment has no compiler on its PATH.
wheel: $(INSTALLED)  ## a wheel for Python 3.10 and later, checked and tried in a fresh environment (5 GB): dist/repaired
	rm -rf dist $(FRESH)
	$(BIN)/python -m build --no-isolation
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/auditwheel repair --wheel-dir dist/repaired \
		--exclude libc10.so --exclude libtorch.so --exclude libtorch_cpu.so dist/*.whl
	$(BIN)/abi3audit --strict dist/repaired/*.whl
	$(PYTHON) -m venv $(FRESH)
	$(FRESH)/bin/pip install --quiet "$$(echo dist/repaired/*.whl)[analysis]"
	cd dist && $(TRY) python ../examples/plain_torch.py run && $(TRY) weightscale info && \
		$(TRY) weightscale analyze run && $(TRY) weightscale plot run --figure heat_map

TRY := env -i HOME=$(HOME) LOKY_MAX_CPU_COUNT=1 PATH=$(abspath $(FRESH))/bin

bench: $(INSTALLED)  ## the pass against its rivals; then the table and figure of docs/performance.md
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-json=bench/results/cpu.json
	$(BIN)/python bench/draw.py bench/results/cpu.json

gpu-check:  ## all that needs a GPU: tests, sanitizer, benchmarks; PYTHON=... is the python with torch to use
	$(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),$(PYTHON)),$(PYTHON)) bench/gpu_check.py

test-cuml: $(INSTALLED)  ## the cuML backend against the real package: installs 2.5 GB; its numbers need a GPU
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[cuml]'
	WEIGHTSCALE_FAST_REQUIRE_CUML=1 $(BIN)/python -m pytest tests/test_cuml.py

clean:  ## forget the environments and what was built
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info weightscale_fast/_C*

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

# numpy 2.4 and later refuse what the interpreter of torch 2.10's Triton does with arrays of one element.
$(OLDEST)/torch:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --upgrade pip 'setuptools>=77' wheel
	$(OLDEST)/bin/pip install --quiet 'torch==2.10.*' 'numpy<2.4' safetensors pytest
	@touch $@
