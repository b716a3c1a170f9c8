# make demo     the main job on the packaged demo models: clip in, identity file and video out
# make test     lint and tests
# make bench    ratios that must not get worse, in two minutes on a CPU; fails if a bar is missed
# make measure  every measurement, on the GPU if there is one; writes benchmarks/results and the tables of the docs
# Each makes its own environment in .venv on first use. PYTHON chooses the interpreter (3.10 to 3.12).
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench measure clean

demo: $(VENV)/demo.stamp
	$(BIN)/slotid demo --force --output slotid_demo

test: $(VENV)/test.stamp lint
	$(BIN)/python -m pytest -q --durations=10

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks.quick

measure: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks

# torch first and alone: what follows must not pull another build of it.
$(VENV)/torch.stamp: constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.12 found. Set PYTHON=/path/to/python."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[headless]"
	touch $@

# Triton has wheels for Linux alone; elsewhere the tests of its kernels skip.
$(VENV)/test.stamp: $(VENV)/demo.stamp
	test "$$(uname -s)" != Linux || $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt triton
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[headless,train,eval,dlib,test,test-insightface]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "insightface>=1.0"
	touch $@

# Other ways to route, measured beside ours.
$(VENV)/bench.stamp: $(VENV)/test.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt pot geomloss
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps flash-sinkhorn
	touch $@

clean:
	rm -rf $(VENV) slotid_demo .pytest_cache .ruff_cache
