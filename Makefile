# make demo   the main job on the packaged demo models: clip in, identity file and video out
# make test   lint and tests
# Each makes its own environment in .venv on first use. PYTHON chooses the interpreter (3.10 to 3.12).
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/demo.stamp
	$(BIN)/slotid demo --force --output slotid_demo

test: $(VENV)/test.stamp lint
	$(BIN)/python -m pytest -q --durations=10

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .

# torch first and alone: what follows must not pull another build of it.
$(VENV)/torch.stamp: constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.12 found. Set PYTHON=/path/to/python."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[headless]"
	touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[headless,train,eval,dlib,test,test-insightface]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "insightface>=1.0"
	touch $@

clean:
	rm -rf $(VENV) slotid_demo .pytest_cache .ruff_cache
