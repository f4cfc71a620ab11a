# Every target does the set-up that it needs: a virtual environment in .venv with the project in it.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# What a user needs, without the tools of development.
INSTALLED = $(VENV)/.installed
# Processes that share the tests, of one thread each: two cores do them in a little over half the time.
TESTERS ?= 2

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(BIN)/rcdm demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy rcdm_core cli plugins

# The stamps are written last, so that an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "rcdm needs Python 3.10 or newer, and $(PYTHON) is `$(PYTHON) --version 2>&1`: name another, for instance make PYTHON=python3.12" >&2; \
		exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e .
	@touch $@

$(READY): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]'
	@touch $@

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
