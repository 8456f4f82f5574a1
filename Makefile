# Every target sets up what it needs: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
SEED ?= 1
COUNT ?= 2000

BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup demo test lint docs bench fuzz clean
.DELETE_ON_ERROR:

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml hatch_build.py $(wildcard src/passband/ops/*/native/*.[ch] src/passband/chain/native/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# Trains on real data that comes with the dependencies and writes runs/demo/report.html.
demo: setup
	$(BIN)/passband study demo --out runs/demo

# One thread for each of two workers: small tensors gain nothing from more.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Our layers and networks against torch's and the other baselines, in one process, in about a quarter
# of an hour; writes benchmarks/results, from which benchmarks/readme_tables.py writes the tables.
bench: setup
	$(BIN)/passband bench --out benchmarks/results

# Random shapes and arguments, every algorithm against the reference: make fuzz SEED=7 COUNT=2000
fuzz: setup
	$(BIN)/python -m tests.fuzz_band_limited_conv --seed $(SEED) --count $(COUNT)

clean:
	rm -rf .venv site dist build
