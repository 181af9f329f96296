# make demo: environment and the embedded audit.   make test: environment and all tests.   make lint: style and types.
# make floors, make newest: a part of the tests with the oldest and the newest releases of every dependency.
# make wheel: wheel and source archive, installed from the lock and used.   make vulnerabilities: known ones of the lock.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test lint floors newest wheel lock vulnerabilities clean paper-lds paper-factorial

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

# Every direct dependency meets a test of these: torch, scipy and the numbers; tables of any library; images; the
# configuration; the command line with its run folder, tables, report and charts; downloads; the app over HTTP.
MEETS_ALL := tests/test_auditor.py tests/solver/test_newton.py tests/objectives/test_properties.py \
	tests/audit/test_feature_gap.py tests/data/test_frames.py tests/data/test_csv_text.py tests/data/test_images.py \
	tests/data/test_reference.py tests/config/test_config_audit.py tests/test_stored_tables.py tests/test_terminal.py \
	tests/app/test_app_api.py
TESTS_NEED := pytest pytest-xdist hypothesis httpx httpx2
# PyPI's torch for Linux is a CUDA build of gigabytes but for the pinned one where a CPU build of that is at hand: so
# torch stands at its pin in both. Its own floor: make floors TORCH=2.6.0, before a release.
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)

floors newest:
	rm -rf build/$@ && $(PYTHON) -m venv build/$@
	$(PYTHON) tests/supply/declared.py | sed 's/^torch==.*/torch==$(TORCH)/' > build/$@/floors.txt
	build/$@/bin/python -m pip install -q torch==$(TORCH)
	build/$@/bin/python -m pip install -q $(if $(filter floors,$@),-r build/$@/floors.txt) -e . $(TESTS_NEED)
	build/$@/bin/python -m pip list --format freeze > build/$@/installed.txt
	OMP_NUM_THREADS=1 build/$@/bin/python -m pytest -q -n 2 --dist loadscope -p no:cacheprovider $(MEETS_ALL)

# used from outside the checkout; the source archive must build, too
wheel: .venv/ready-dev
	rm -rf build/dist build/wheel && $(PYTHON) -m venv build/wheel
	$(BIN)/python -m hatchling build -d $(CURDIR)/build/dist
	build/wheel/bin/python -m pip install -q -c constraints.txt torch
	build/wheel/bin/python -m pip install -q --require-hashes -r requirements.lock
	build/wheel/bin/python -m pip install -q --no-deps build/dist/*.tar.gz
	build/wheel/bin/krepes --version
	build/wheel/bin/python -m pip install -q --no-deps --force-reinstall build/dist/*.whl
	build/wheel/bin/python -m pip check
	cd / && $(CURDIR)/build/wheel/bin/python -I $(CURDIR)/tests/supply/installed.py $(CURDIR)

# the lock of the releases in constraints.txt, without torch and what its build needs (docs/installation.md)
lock:
	test -d build/uv || $(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install -q uv
	echo "torch ; python_version < '0'" > build/no-torch.txt
	sed -n '/^#/p' requirements.lock > build/requirements.lock
	build/uv/bin/uv pip compile -q pyproject.toml -c constraints.txt --override build/no-torch.txt --universal \
		--python-version 3.11 --generate-hashes --no-annotate --no-header >> build/requirements.lock
	mv build/requirements.lock requirements.lock

vulnerabilities:
	test -d build/pip-audit || $(PYTHON) -m venv build/pip-audit
	build/pip-audit/bin/python -m pip install -q pip-audit
	bash .ci/vulnerabilities build/pip-audit/bin/pip-audit

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
	rm -rf .venv build runs
