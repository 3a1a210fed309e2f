# What can be done here, with nothing but Python (3.10 to 3.13), pip and make. `make` alone lists it.

PYTHON ?= python3
PORT ?= 8080
BIN := .venv/bin

# GNU make turns every failure of a recipe into status 2, except under -q: there a line marked + still runs, and if it
# ends with status 1, so does make. `make run` needs both: 1 says that the model was rejected, 2 that something failed.
ifeq (run,$(MAKECMDGOALS))
MAKEFLAGS += -q
endif

.PHONY: help run up test check bench lock clean

help:
	@echo "make run [epochs=3 min_accuracy=0.98 ...]  run the DAG once: 0 promoted, 1 rejected, 2 failed"
	@echo "make up [PORT=8080]                        Airflow's UI and the nightly schedule, until Ctrl-C"
	@echo "make test                                  all tests"
	@echo "make check                                 style and types"
	@echo "make bench                                 the DAG run and each recipe against plain Keras scripts; the rules for data; the gate"
	@echo "make lock                                  resolve requirements.txt and requirements-dev.txt anew"
	@echo "make clean                                 remove the environment and caches; var/ with your models stays"

run: .venv/ready
	+@exec $(BIN)/python scripts/run.py $(filter-out PYTHON=% PORT=%,$(MAKEOVERRIDES))

up: .venv/ready
	@exec env PORT=$(PORT) $(BIN)/python scripts/up.py

test: .venv/ready-dev
	$(BIN)/python -m pytest

check: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready-dev
	$(BIN)/python tests/benchmarks/nightly.py 3 var/benchmark-nightly.json
	$(BIN)/python tests/benchmarks/training.py 5 var/benchmark-training.json
	$(BIN)/python tests/benchmarks/gate.py var/benchmark-gate.json var/benchmark-gate.png
	$(BIN)/python -m tests.benchmarks.data
	$(BIN)/python -m tests.benchmarks.pages 3 var/benchmark-pages.json

.venv/ready: requirements.txt pyproject.toml scripts/setup.sh
	+@exec sh scripts/setup.sh $(PYTHON) requirements.txt $@

.venv/ready-dev: requirements-dev.txt .venv/ready
	+@exec sh scripts/setup.sh $(PYTHON) requirements-dev.txt $@

# The same versions on every Python, so that what was tested on one is what runs on the others.
LOCK = $(BIN)/uv pip compile --universal --python-version 3.10 --fork-strategy fewest --no-annotate \
	--custom-compile-command "make lock" --quiet

lock: .venv/ready-dev
	$(LOCK) pyproject.toml -o requirements.txt
	$(LOCK) --group dev -c requirements.txt -o requirements-dev.txt

clean:
	rm -rf .venv build *.egg-info .hypothesis .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -prune -not -path "./var/*" -exec rm -rf {} +
