# make up         install, start Madang in the background, ask the first model one question
# make test       install what the tests need, and pass all of them but the stories
# make help       everything else

PYTHON ?= python3
UV     ?=
VENV   := .venv
BIN    := $(VENV)/bin
TINY   := examples/train-a-tiny-llm
WORKERS := $(shell echo $$(( $$(nproc) * 3 / 2 + 1 )))# tests at a time: many of them wait
LOCKS  := requirements/core.txt requirements/build.txt src/madang/engines/requirements.txt

ifeq ($(UV),)
INSTALL := $(BIN)/python -m pip install -qq --no-input --disable-pip-version-check \
           --require-hashes --no-deps --only-binary :all: --no-compile
TORCH   := $(subst $(BIN),$(TINY)/.venv/bin,$(INSTALL))
SELF    := $(BIN)/python -m pip install -qq --no-input --disable-pip-version-check \
           --no-deps --no-index --no-build-isolation --no-compile -e .
MAKE_VENV = $(PYTHON) -m venv
else
INSTALL := $(UV) pip install -q --python $(BIN)/python --require-hashes --no-deps --only-binary :all:
SELF    := $(UV) pip install -q --python $(BIN)/python --no-deps --no-index --no-build-isolation -e .
TORCH   := $(subst $(BIN),$(TINY)/.venv/bin,$(INSTALL)) --torch-backend cpu
MAKE_VENV = $(UV) venv -q --python $(PYTHON)
endif

.PHONY: help up down setup train-env compile check test test-compiled stories mutants lock schemas clean purge bench
.SILENT:
unexport PYTHONDONTWRITEBYTECODE  # each of thousands of processes would compile all that it imports

help:  ## this list
	sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

up: $(VENV)/.ok  ## install if needed, start, and show the model's answer
	$(BIN)/madang up

down:  ## stop Madang; state stays
	test ! -x $(BIN)/madang || $(BIN)/madang down

setup: $(VENV)/.ok  ## only install

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Madang needs Python 3.11 or newer: make up PYTHON=python3.12" >&2; exit 1; }
	echo "· environment in $(VENV)"
	$(MAKE_VENV) $(VENV)

$(VENV)/.ok: $(LOCKS) pyproject.toml | $(VENV)/bin/python
	echo "· $$(cat $(LOCKS) | grep -c '==') packages by hash, the engine and the first model among them"
	$(INSTALL) $(LOCKS:%=-r %)
	echo "· Madang itself"
	$(SELF)
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.ok
	echo "· what the tests need"
	$(INSTALL) -r requirements/dev.txt
	touch $@

train-env: $(TINY)/.venv/.ok  ## what examples/train-a-tiny-llm needs: PyTorch, 1 GB, in an environment of its own

$(TINY)/.venv/.ok: $(TINY)/torch-cpu.txt $(TINY)/requirements.txt
	echo "· environment in $(TINY)/.venv: PyTorch for the processor, and what goes with it"
	test -x $(@D)/bin/python || $(MAKE_VENV) $(@D)
	$(TORCH) -r $(TINY)/torch-cpu.txt -r $(TINY)/requirements.txt || { echo "Where the index has" \
	  "no torch +cpu: PIP_FIND_LINKS=FOLDER make train-env, or make train-env UV=uv" >&2; exit 1; }
	touch $@

check: $(VENV)/.dev  ## lint, types, imports and the quick tests: under a minute
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/mypy & $(BIN)/python tests/offline.py $(BIN)/pytest -m "not thorough" \
	  --hypothesis-profile quick -n $(shell nproc) tests/house tests/planning tests/traffic; \
	  tests=$$?; wait $$! && exit $$tests

test: $(VENV)/.dev  ## every test but the stories, with no network but loopback
	$(BIN)/python tests/offline.py $(BIN)/pytest -m "not story" -n $(WORKERS)
	if command -v cc >/dev/null; then $(MAKE) -s test-compiled; else echo "no C compiler: what it" \
	  "makes of the gateway was not tested; apt install gcc libc6-dev" >&2; exit $${MADANG_CI:-0}; fi

test-compiled: compile  ## traffic and gateway once more, as machine code
	MADANG_COMPILED=on $(BIN)/python tests/offline.py $(BIN)/pytest -m "not plain and not thorough" \
	  -n $(WORKERS) --hypothesis-profile quick tests/traffic tests/gateway

compile: $(VENV)/.dev  ## the gateway's own files as machine code: a third off its CPU; needs a C compiler
	$(BIN)/python requirements/compile.py

bench-gateway bench-gateway-tls bench-gateway-limits bench-gateway-memory bench-processes: compile

stories: $(VENV)/.dev  ## the real thing, end to end: a real model, a fresh clone
	$(BIN)/python tests/offline.py $(BIN)/pytest -m "story and not online" tests/stories \
	  -n $(shell nproc) --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest -m "story and online" tests/stories

mutants: $(VENV)/.dev  ## break one promise after the other, and see that its test notices
	$(BIN)/python tests/offline.py $(BIN)/python tests/mutants/run.py

bench-%: $(VENV)/.dev  ## bench-NAME: one bench, as JSON in bench/out
	mkdir -p bench/out
	$(BIN)/python bench/$(subst -,_,$*).py

bench-queue: $(VENV)/.dev  ## how long jobs wait and who goes short: a few minutes
	mkdir -p bench/out
	$(BIN)/python bench/queueing.py

bench: $(VENV)/.dev  ## the short benches, and one table (durability and hostile run by themselves)
	mkdir -p bench/out
	for each in $(filter-out bench/jobs_% bench/gateway_memory.py,$(wildcard bench/[a-z]*_*.py)) bench/control.py bench/jobs.py; do $(BIN)/python $$each; done
	$(BIN)/python bench/table.py

lock: $(VENV)/.dev  ## make the lock files anew (needs uv)
	sh requirements/lock.sh

schemas: $(VENV)/.dev  ## write docs/schemas from the resources
	$(BIN)/python tests/house/test_schemas.py

clean: down  ## stop Madang and remove what was installed and built; state stays
	rm -rf $(VENV) $(TINY)/.venv $(TINY)/build build dist bench/out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

purge: down  ## clean, and remove all state too
	rm -rf "$${MADANG_HOME:-$${XDG_STATE_HOME:-$$HOME/.local/state}/madang}"
	$(MAKE) clean
