# make demo: environment and the embedded audit.   make test: environment and all tests.   make lint: style and types.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/ready
	$(BIN)/krepes demo --overwrite

# two processes with one thread each: more threads than cores would slow all of them
test: .venv/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# torch first: the pinned version must be there before anything that merely asks for "torch"
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

# lightly is the oracle of the losses' values; without its dependencies, of which torchvision needs another torch
# torchvision and timm stand aside, on no test's path but one's: on a CPU torch theirs cannot be imported as it is
.venv/ready-dev: .venv/ready
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps lightly
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps --upgrade --target .venv/vision torchvision timm
	touch $@

clean:
	rm -rf .venv runs
