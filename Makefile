# Two commands for a newcomer: make demo, make test. Each makes .venv first where it is missing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint check bench chaos clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/storm-clinic demo demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadscope

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

# Kills, fills, hangs, damages and cuts off for some minutes; fails on any violation.
chaos: $(STAMP)
	$(BIN)/python benchmarks/chaos.py
	$(BIN)/python benchmarks/mutations.py

clean:
	rm -rf .venv demo build dist *.egg-info
