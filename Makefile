# Every command of this project. They need Python 3.10 to 3.13, pip and make; `make` alone lists them.

PYTHON ?= python3
COMPOSE ?= docker compose
BIN := .venv/bin
# Python, whatever PYTHONPATH, PYTHONWARNINGS and the locale say.
PLAIN := $(BIN)/python -E -X utf8
# Two workers of pytest-xdist, with this Python. TensorFlow uses all cores in each.
WORKERS := --tx "2*popen//python=$(PLAIN)"

# What is typed after `make run` is data. To put it into the environment of a command, make would expand it, $(shell ...)
# included. scripts/with_parameters.py gets it as it was typed.
ifneq (,$(filter run sweep up stack-run,$(MAKECMDGOALS)))
unexport $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
endif
WITH_PARAMETERS := scripts/with_parameters.py

# Make runs a line that begins with + even under -q. The + is left out where the user only asks what make would do, with
# -n, -q or -t.
ONLY_ASKED := $(foreach flag,n q t,$(findstring $(flag),$(filter-out --%,$(firstword -$(MAKEFLAGS)))))
ALWAYS := $(if $(strip $(ONLY_ASKED)),,+)

# `make run` ends with status 1 if the model was rejected and with 2 if something failed. But GNU make turns every failure
# of a recipe into status 2, except under -q: there it passes on status 1 of a line that begins with +.
ifneq (,$(and $(ALWAYS),$(filter run sweep stack-run,$(MAKECMDGOALS)),$(filter 1,$(words $(MAKECMDGOALS)))))
MAKEFLAGS += -q
endif

.PHONY: help run sweep up test test-all check audit bench docs lock clean ready ready-dev env
.PHONY: stack-up stack-run stack-test stack-down serve-check

help:
	@echo "make run [epochs=3 min_accuracy=0.98 ...]  run the DAG once: 0 promoted, 1 rejected, 2 failed"
	@echo "make sweep [trials=8 preset=cnn ...]       search for better training parameters, and train what wins"
	@echo "make up [PORT=8080]                        Airflow's UI and the nightly schedule, until Ctrl-C"
	@echo "make test                                  the tests without the slow ones: some minutes"
	@echo "make test-all                              all tests, with coverage: what .ci/run runs"
	@echo "make check                                 style and types"
	@echo "make audit                                 known vulnerabilities in the packages"
	@echo "make bench                                 measure every figure in the documentation"
	@echo "make docs                                  generate the parameters and schemas in docs/"
	@echo "make stack-up                              Airflow for a team in containers: Celery, Postgres, a GPU worker"
	@echo "make stack-run [epochs=3 ...]              run the DAG once there, like make run"
	@echo "make serve-check                           ask TensorFlow Serving there whether it serves the champion"
	@echo "make stack-down                            stop it; the volumes with your models stay"
	@echo "make stack-test                            test the containers and what can break in them; needs Docker"
	@echo "make lock                                  resolve the requirements files again"
	@echo "make clean                                 remove the environment and caches; var/ with your models stays"

run: ready
	$(ALWAYS)@exec $(PLAIN) $(WITH_PARAMETERS) $(PLAIN) scripts/run.py

sweep: ready
	$(ALWAYS)@exec $(PLAIN) $(WITH_PARAMETERS) $(PLAIN) scripts/sweep.py

up: ready
	@exec $(PLAIN) $(WITH_PARAMETERS) $(PLAIN) scripts/up.py

test: ready-dev
	$(PLAIN) -m pytest -m "not slow and not stack" $(WORKERS) --dist worksteal

# Coverage is measured without the slow tests: they take much longer under it. The end-to-end tests stay on one worker
# (see tests/conftest.py).
test-all: ready-dev
	$(PLAIN) -m pytest -m "not slow and not stack" $(WORKERS) --dist worksteal --cov
	$(PLAIN) -m pytest -m "slow and not stack" $(WORKERS) --dist loadgroup

check: ready-dev
	$(PLAIN) -m ruff check .
	$(PLAIN) -m ruff format --check .
	$(PLAIN) -m mypy

audit: ready-dev
	$(BIN)/python scripts/audit.py

docs: ready-dev
	$(PLAIN) scripts/generate_docs.py

bench: ready-dev
	$(BIN)/python -m benchmarks.nightly 3 var/benchmark-nightly.json
	$(BIN)/python -m benchmarks.training 5 var/benchmark-training.json
	$(BIN)/python -m benchmarks.growth 16 var/benchmark-growth.json
	$(BIN)/python -m benchmarks.gate var/benchmark-gate.json var/benchmark-gate.png
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.forms
	$(BIN)/python -m benchmarks.year 365 var/benchmark-year.json
	$(BIN)/python -m benchmarks.pictures 100 2026
	$(BIN)/python -m benchmarks.pages 3 var/benchmark-pages.json
	$(BIN)/python -m benchmarks.mirror 3 var/benchmark-mirror.json

# The environment belongs to this folder and its Python. The script ends at once if everything is installed.
CHOSEN := $(if $(filter file,$(origin PYTHON)),,'$(PYTHON)')

ready:
	$(ALWAYS)@exec sh scripts/setup.sh requirements.txt ready $(CHOSEN)

ready-dev: ready
	$(ALWAYS)@exec sh scripts/setup.sh requirements-dev.txt ready-dev

# The same versions on every Python, so that tests on one hold for the others. The other files keep to the versions of
# requirements.txt.
LOCK = $(BIN)/python -m uv pip compile --generate-hashes --no-annotate --custom-compile-command "make lock" --quiet
EVERY = --universal --fork-strategy fewest --python-version

lock: ready-dev
	$(LOCK) $(EVERY) 3.10 pyproject.toml -o requirements.txt
	$(LOCK) $(EVERY) 3.10 --group dev -c requirements.txt -o requirements-dev.txt
	$(LOCK) $(EVERY) 3.10 --group servers -o tests/servers/requirements.txt
	$(LOCK) $(EVERY) 3.10 --group s3 -c requirements.txt -o requirements-s3.txt
	$(LOCK) $(EVERY) 3.10 --group mlflow -c requirements.txt -o requirements-mlflow.txt
	$(LOCK) $(EVERY) 3.11 --group stack -c requirements.txt -c requirements-s3.txt -c requirements-mlflow.txt \
		-o requirements-stack.txt
	$(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_28 --group gpu -c requirements.txt \
		-o requirements-gpu.txt

env:
	@$(PYTHON) scripts/stack_env.py

stack-up: env
	COMMIT=$$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null) $(COMPOSE) up --detach --build --wait

stack-run:
	$(ALWAYS)@exec $(PYTHON) -E $(WITH_PARAMETERS) $(COMPOSE) run --rm --no-deps --no-TTY init \
		python /opt/mnist/scripts/stack_run.py

serve-check:
	@$(COMPOSE) run --rm --no-deps --no-TTY init python -m mnist_tasks serve-check --url http://serving:8501

stack-down:
	$(COMPOSE) down

stack-test: ready-dev
	$(BIN)/python -m pytest -m "" tests/e2e/test_stack.py tests/e2e/test_stack_sweep.py \
		tests/e2e/test_stack_serving.py

clean:
	rm -rf .venv build *.egg-info .coverage* .hypothesis .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -prune -not -path "./var/*" -exec rm -rf {} +
