# What can be done here, with nothing but Python (3.10 to 3.13), pip and make. `make` alone lists it.

PYTHON ?= python3
COMPOSE ?= docker compose
BIN := .venv/bin
PLAIN := $(BIN)/python -E -X utf8  # whatever PYTHONPATH, PYTHONWARNINGS or the locale say

# What is typed behind `make run` is data. Make would expand it, $(shell ...) included, to hand it to a command's
# environment; scripts/with_parameters.py gets it as it was typed.
ifneq (,$(filter run up stack-run,$(MAKECMDGOALS)))
unexport $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
endif
WITH_PARAMETERS := scripts/with_parameters.py

# A + has a line run even under -q. Not where make is only asked what it would do: by -n, -q or -t.
ONLY_ASKED := $(foreach flag,n q t,$(findstring $(flag),$(filter-out --%,$(firstword -$(MAKEFLAGS)))))
ALWAYS := $(if $(strip $(ONLY_ASKED)),,+)

# GNU make turns every failure of a recipe into status 2, except under -q: there a line marked + still runs, and if it
# ends with status 1, so does make. `make run` needs both: 1 says that the model was rejected, 2 that something failed.
ifneq (,$(and $(ALWAYS),$(filter run stack-run,$(MAKECMDGOALS)),$(filter 1,$(words $(MAKECMDGOALS)))))
MAKEFLAGS += -q
endif

.PHONY: help run up test check audit bench lock clean ready ready-dev env stack-up stack-run stack-test stack-down

help:
	@echo "make run [epochs=3 min_accuracy=0.98 ...]  run the DAG once: 0 promoted, 1 rejected, 2 failed"
	@echo "make up [PORT=8080]                        Airflow's UI and the nightly schedule, until Ctrl-C"
	@echo "make test                                  all tests"
	@echo "make check                                 style and types"
	@echo "make audit                                 known vulnerabilities of the packages"
	@echo "make bench                                 everything that the README gives a number for"
	@echo "make stack-up                              Airflow for a team in containers: Celery, Postgres, a GPU worker"
	@echo "make stack-run [epochs=3 ...]              run the DAG once there, as make run does"
	@echo "make stack-down                            stop it; its volumes with your models stay"
	@echo "make stack-test                            all of it and its faults, on an engine and ports of its own"
	@echo "make lock                                  resolve requirements.txt and requirements-dev.txt anew"
	@echo "make clean                                 remove the environment and caches; var/ with your models stays"

run: ready
	$(ALWAYS)@exec $(PLAIN) $(WITH_PARAMETERS) $(PLAIN) scripts/run.py

up: ready
	@exec $(PLAIN) $(WITH_PARAMETERS) $(PLAIN) scripts/up.py

test: ready-dev
	$(PLAIN) -m pytest

check: ready-dev
	$(PLAIN) -m ruff check .
	$(PLAIN) -m ruff format --check .
	$(PLAIN) -m mypy

audit: ready-dev
	$(BIN)/python scripts/audit.py

bench: ready-dev
	$(BIN)/python benchmarks/nightly.py 3 var/benchmark-nightly.json
	$(BIN)/python benchmarks/training.py 5 var/benchmark-training.json
	$(BIN)/python benchmarks/growth.py 16 var/benchmark-growth.json
	$(BIN)/python benchmarks/gate.py var/benchmark-gate.json var/benchmark-gate.png
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.pages 3 var/benchmark-pages.json

# The environment, bound to this folder and its Python; the script ends at once if it is as it should be.
CHOSEN := $(if $(filter file,$(origin PYTHON)),,'$(PYTHON)')

ready:
	$(ALWAYS)@exec sh scripts/setup.sh requirements.txt ready $(CHOSEN)

ready-dev: ready
	$(ALWAYS)@exec sh scripts/setup.sh requirements-dev.txt ready-dev

# The same versions on every Python, so that what was tested on one is what runs on the others.
LOCK = $(BIN)/python -m uv pip compile --generate-hashes --no-annotate --custom-compile-command "make lock" --quiet
EVERY = --universal --fork-strategy fewest --python-version

lock: ready-dev
	$(LOCK) $(EVERY) 3.10 pyproject.toml -o requirements.txt
	$(LOCK) $(EVERY) 3.10 --group dev -c requirements.txt -o requirements-dev.txt
	$(LOCK) $(EVERY) 3.11 --group stack -c requirements.txt -o requirements-stack.txt
	$(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_28 --group gpu -c requirements.txt \
		-o requirements-gpu.txt

env:
	@$(PYTHON) scripts/stack_env.py

stack-up: env
	COMMIT=$$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null) $(COMPOSE) up --detach --build --wait

stack-run:
	$(ALWAYS)@exec $(PYTHON) -E $(WITH_PARAMETERS) $(COMPOSE) run --rm --no-deps --no-TTY init \
		python /opt/mnist/scripts/stack_run.py

stack-down:
	$(COMPOSE) down

stack-test: ready-dev
	$(BIN)/python -m pytest -m "" tests/e2e/test_stack.py

clean:
	rm -rf .venv build *.egg-info .hypothesis .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -prune -not -path "./var/*" -exec rm -rf {} +
