# A fresh clone needs Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml constraints.txt
# what the cards there are use on their samples
EXTRAS := tables,causal,sachs,samples,privacy,splatting,colmap

.PHONY: demo test lint docs clean

## demo: install what the samples need, run every card on its sample, make tour/index.html
demo: .venv/.demo
	$(BIN)/surefoot tour -o tour
	@echo "open tour/index.html"

## test: install what the tests need and run them
test: .venv/.test
	$(BIN)/python -m pytest -n auto --dist loadgroup $(PYTEST_FLAGS)

## lint: format, lint, types, floors
lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/basedpyright -p types.json
	$(BIN)/lint-imports

## docs: the pages, into site/
docs: .venv/.test
	$(BIN)/mkdocs build --strict --quiet

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Surefoot needs Python 3.11 or newer; say make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.made $(SOURCES)
	$(PIP) -e '.[$(EXTRAS)]'
	touch $@

.venv/.test: .venv/.made $(SOURCES)
	$(PIP) -e '.[dev,$(EXTRAS)]'
	$(PIP) --no-deps -e examples/plugin
	touch $@ .venv/.demo

clean:
	rm -rf .venv site tour runs
