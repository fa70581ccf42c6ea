# make quickstart: install everything and run the whole chain of jobs on this machine.
# make test:       install everything and pass the tests.
# make fuzz:       10,000 damaged datasets of each format through ingest, about an hour.
# make soak:       jobs that are killed at many moments, and long sweeps: half an hour.
# make sanitize:   run the operator tests with AddressSanitizer and UndefinedBehaviorSanitizer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

# Jobs and tests start hundreds of Python processes: let them share compiled bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test fuzz soak lint sanitize install docs clean

quickstart: install
	$(BIN)/python workflows/end_to_end.py configs/quickstart.yaml

# Two processes: one for the files that share Ray, which come first, and one for the rest.
test: install lint
	$(BIN)/pytest -n 2 --no-loadscope-reorder $(PYTEST_ARGS)

fuzz: install
	FUZZ_CASES=10000 $(BIN)/pytest -o timeout=14400 tests/pipeline/ingest/test_fuzz.py \
	  tests/model/images/test_decode.py $(PYTEST_ARGS)

soak: install
	SOAK=1 $(BIN)/pytest -m soak $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Checks every memory access of the CPU kernels, and of the CUDA kernels emulated on the host.
SANITIZED := build/sanitized
SANITIZERS := $(foreach name,asan ubsan stdc++,$(shell gcc -print-file-name=lib$(name).so))
sanitize: install
	OPS_SANITIZE=1 $(BIN)/python setup.py -q build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)-objects
	OPS_SANITIZE=1 LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(BIN)/pytest -o pythonpath="$(SANITIZED) ." tests/ops_cuda $(PYTEST_ARGS)

docs: install
	$(BIN)/python tools/write_config_reference.py

install: $(VENV)/.installed

# torch is installed first, because the project's extension is compiled against it.
$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard ops_cuda/csrc/*.* ops_cuda/csrc/*/*.*)
	sh tools/install_system_packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision setuptools wheel ninja
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation --editable '.[dev]'
	$(BIN)/python -c 'import ops_cuda; print(ops_cuda.backend())'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info *.so runs
