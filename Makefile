# Two commands are enough: `make train`, then `make test`. Each sets up .venv first, if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
RUN ?= runs/quickstart
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
ACCELERATE ?= $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no \
	--dynamo_backend no --num_cpu_threads_per_process $(CORES)
CODE := bahdanau_hf scripts tests benchmarks experiments examples exercises notebooks docs
INSTALL = $(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e

.DEFAULT_GOAL := help
.PHONY: help train test test-oldest test-newest test-older-processor test-torchao audit pins browser browser-libraries
.PHONY: slow format lint types docs notebooks bench fuzz demo wheel clean

help:  ## this list
	@sed -n -E 's/^([a-z-]+):.*## /\1\t/p' Makefile | expand -t 22

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || { \
	  echo "Python 3.11 to 3.14 is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@# Some systems' python3 comes with pip but without the part of venv that installs pip.
	@$(PYTHON) -m venv $(VENV) >/dev/null || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $@ install --quiet pip; } || { rm -rf $(VENV); exit 1; }

# The stamp is younger than what it was made from: a second call installs nothing.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "Setting up $(VENV); the first time takes some minutes."
	$(INSTALL) '.[dev,plot,zh,onnx,documents]'
	@touch $@

$(VENV)/.installed-demo: $(VENV)/.installed
	$(INSTALL) '.[demo]'
	@touch $@

# What the tests of pages need beside Chromium itself; without it `make test` leaves them out.
$(VENV)/.installed-browser: $(VENV)/.installed
	$(INSTALL) '.[demo,browser]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) '.[docs]'
	@touch $@

$(VENV)/.installed-notebooks: $(VENV)/.installed
	$(INSTALL) '.[notebooks]'
	@touch $@

# Nothing that npm fetches is run while it is installed; the lock file knows the checksums.
browser-libraries: $(VENV)/.installed  ## fetches what the page without a server needs
	$(BIN)/python -c "from bahdanau_hf.demo.static_space import fetched_libraries as fetch; fetch()"

# Threads that wait asleep: two that spin on a busy machine can take ten times as long as one.
train: export OMP_WAIT_POLICY ?= PASSIVE
train: $(VENV)/.installed  ## train the quickstart model on the bundled pairs: runs/quickstart
	$(ACCELERATE) -m bahdanau_hf.train tiny --output_dir $(RUN) --overwrite_output_dir

# Several processes of tests, each with a thread of its own. Each keeps to files of its own while
# there are some, so that what the tests of a file share is made once.
IN_PARALLEL := -n auto --maxprocesses 4 --dist worksteal
test test-older-processor: export OMP_NUM_THREADS ?= 1
test: $(VENV)/.installed  ## the fast tests
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-oldest:  ## the same with the oldest supported versions, in .venv-oldest
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

test-newest:  ## the same with the newest that pip finds, in .venv-newest
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null

# What is computed in another way where the processor lacks AVX-512.
ON_ANY_PROCESSOR := $(patsubst %,modeling/test_%.py,processor matmul layout encoder decoding \
	decoding_properties recurrence numerics int8) test_precision.py \
	$(patsubst %,export/test_onnx_%.py,export int8 search)
test-older-processor: export ATEN_CPU_CAPABILITY := avx2
test-older-processor: export ONEDNN_MAX_CPU_ISA := AVX2
test-older-processor: export FBGEMM_ENABLE_INSTRUCTIONS := AVX2
test-older-processor: export BAHDANAU_PROCESSOR := vnni=0
test-older-processor: $(VENV)/.installed  ## the tests of fast paths as on a processor without AVX-512
	$(BIN)/python -m pytest $(IN_PARALLEL) $(addprefix tests/,$(ON_ANY_PROCESSOR))

# Apart from the environment: transformers imports torchao wherever it is installed, and is slower.
build/torchao: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --target $@ torchao==0.18.0
	@touch $@

test-torchao: build/torchao  ## the tests of weights that torchao has quantised
	PYTHONPATH=build/torchao $(BIN)/python -m pytest tests/modeling/test_torchao.py

# Apart too: it is large, and only its interpreter is wanted here.
build/triton: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --target $@ triton==3.6.0
	@touch $@

test-triton: build/triton  ## the kernels for GPUs, in Triton's interpreter
	PYTHONPATH=build/triton TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/gpu/test_kernels.py

audit:  ## ask the Python Packaging Advisory Database about the pinned versions
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit -r $(CONSTRAINTS) --no-deps --disable-pip --strict

# uv resolves for every system and every Python that is supported, not for this machine alone.
pins:  ## write anew what the direct dependencies in constraints.txt bring
	$(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --quiet uv
	sed '/^# What these bring/q' constraints.txt > .venv-pins/direct.txt
	.venv-pins/bin/uv pip compile --quiet --universal --python-version 3.11 \
	  --fork-strategy fewest --all-extras --no-header --no-annotate \
	  -c .venv-pins/direct.txt pyproject.toml > .venv-pins/all.txt
	grep -vxFf .venv-pins/direct.txt .venv-pins/all.txt | \
	  grep -vE "^(nvidia|cuda)-|sys_platform == 'emscripten'" >> .venv-pins/direct.txt
	mv .venv-pins/direct.txt constraints.txt

browser: $(VENV)/.installed-browser  ## the tests of the pages, in Chromium
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest -m browser

slow: $(VENV)/.installed  ## the slow tests
	$(BIN)/python -m pytest -m 'slow and not gpu'

format: $(VENV)/.installed  ## format the code
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lint: $(VENV)/.installed  ## look for mistakes and for unformatted code
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(VENV)/.installed  ## check the types
	$(BIN)/mypy

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.installed-docs  ## the documentation as a site in site/; a broken link is an error
	$(BIN)/python -m mkdocs build --strict

notebooks: $(VENV)/.installed-notebooks  ## execute the notebooks, and see that they agree with their sources
	$(BIN)/python notebooks/build.py --check

bench: $(VENV)/.installed  ## measure speed on this machine
	$(BIN)/python benchmarks/run.py

fuzz: $(VENV)/.installed  ## 50,000 inputs that nobody expects; SEED=2 for others
	$(BIN)/python -m tests.stress.fuzz --cases 50000 --seed $(or $(SEED),1)

demo: $(VENV)/.installed-demo  ## a page to try a checkpoint in the browser
	@test -f $(RUN)/config.json || { \
	  echo "There is no model in $(RUN) yet: make train, or make demo RUN=folder" >&2; exit 1; }
	$(BIN)/bahdanau-hf demo --model $(RUN)

# Apart from the environment: what builds and checks is not needed to train or to test.
$(VENV)-wheel/.installed: | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-wheel 2>/dev/null || $(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet build twine
	@touch $@

wheel: $(VENV)-wheel/.installed  ## build what goes to the package index, and check it: dist/
	rm -rf build/lib dist
	$(VENV)-wheel/bin/python -m build --outdir dist .
	$(VENV)-wheel/bin/twine check --strict dist/*

clean:  ## remove the environment and all that was built; runs/ stays
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
