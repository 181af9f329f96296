# make demo: environment and the embedded audit.   make test: environment and all tests.   make lint: style and types.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test lint clean paper-lds paper-factorial

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

# the tables of the paper (benchmarks/README.md): paper-adult, -covtype, -higgs, -mnist, -cifar10, -fairface, -lds, -factorial
paper-lds: .venv/ready-bench
	cd benchmarks && OMP_NUM_THREADS=1 ../$(BIN)/python lds.py
	cd benchmarks && ../$(BIN)/python -m paper.results

paper-factorial: .venv/ready-bench
	cd benchmarks && OMP_NUM_THREADS=1 ../$(BIN)/python -m paper.factorial

paper-%: .venv/ready-bench
	cd benchmarks && OMP_NUM_THREADS=1 ../$(BIN)/python -m paper $*
	cd benchmarks && ../$(BIN)/python -m paper.results

.venv/ready-bench: .venv/ready-dev
	$(BIN)/python -m pip install -q setuptools wheel
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation traker==0.3.2
	touch $@

clean:
	rm -rf .venv runs
