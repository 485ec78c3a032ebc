# `make demo` and `make test` each set up what they need on a fresh machine.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STORE  ?= demo-store
TESTS  ?=

.PHONY: env demo test test-slow test-faults bench docs lint lock clean

env: $(VENV)/.installed

# The stamp is older than the lock after every change of the lock, so that the environment follows it.
$(VENV)/.installed: requirements.lock pyproject.toml
	@command -v uv >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet uv
	uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# Its language model trains in two processes, and two shards are worked on at once: so small a model gains more from
# either than from two threads.
demo: env
	$(BIN)/segue run --preset miniature --store $(STORE) --set settings.processes=2 --set settings.concurrency=2

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: env lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS)

# The tests of properties too, with four times the examples.
test-slow: env
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "(slow or hypothesis) and not faults" --hypothesis-profile thorough \
	  --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS)

# Thousands of faults and a hundred kills; SEGUE_FAULTS_SEED chooses others.
test-faults: env
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 tests/faults

bench: env
	$(BIN)/python -W ignore -m tests.benchmarks --results tests/benchmarks/results
	$(BIN)/python -m docs.generate

# What the documentation takes from the code; the answers to its queries only where the demo's store is there.
docs: env
	$(BIN)/python -m docs.generate $(wildcard $(STORE))

lock:
	uv pip compile pyproject.toml --all-extras --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) $(STORE) build *.egg-info
