# What a person types in this repository. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# Not compiled ahead: most of what is installed is never imported, and Python compiles the rest once.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --no-compile --progress-bar off
# A dot for every package fetched; nothing else, unless it went wrong or the network is slow to answer.
PROGRESS := 2>&1 | awk '\
  /^ERROR|^error|Retrying/ {said = 1} \
  said {print > "/dev/stderr"; next} \
  /^Collecting/ {if (!dots++) printf "           "; printf "."; fflush()} \
  /^Installing/ {if (!dots++) printf "           "; printf " unpacking"; fflush()} \
  END {if (dots) print ""}'
PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
READY := $(VENV)/.ready
BUILDERS := $(VENV)/.builders
LIBRARY := src/tacit/engine/libtacit.so
TESTS ?= tests src
# Journeys wait for one another more than they work.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 1) + 1)
SECONDS ?= 60

# torch comes apart from the lock, because its builds differ by machine (docs/decisions/0005).
# The CPU build is all that tacit uses. Where your index offers a larger one first:
#   make setup TORCH_INDEX='--index-url https://download.pytorch.org/whl/cpu'
TORCH := torch==2.13.0
TORCH_INDEX ?=

# An environment holds absolute paths: one that was made for another folder is made anew.
ifneq ($(shell cat $(VENV)/.place 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

.PHONY: help setup demo test lint bench-quick bench docs clean engine engine-all builders lock format fuzz-tape

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) $(LIBRARY)  ## the environment .venv, with the engine compiled; a second run costs nothing

$(READY): pyproject.toml hatch_build.py requirements/dev.txt requirements/pip.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: tacit needs Python 3.11 or newer and '$(PYTHON)' is not; name one: make setup PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@if [ "$$(cat $(VENV)/.place 2>/dev/null)" != "$(CURDIR)" ]; then \
	  echo "setup 1/4: $(VENV), with $$($(PYTHON) --version)"; \
	  rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) || { echo "error: no environment was made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	  echo "$(CURDIR)" > $(VENV)/.place; \
	fi
	@echo "setup 2/4: $(TORCH)"
	@$(INSTALL) --require-hashes -r requirements/pip.txt $(PROGRESS)
	@$(INSTALL) --no-deps $(TORCH_INDEX) $(TORCH) $(PROGRESS)
	@$(BIN)/python requirements/torch_build.py
	@echo "setup 3/4: $$(grep -c '^[a-z].*==' requirements/dev.txt) locked packages, every hash checked"
	@$(INSTALL) --no-deps --require-hashes -r requirements/dev.txt $(PROGRESS)
	@$(INSTALL) $(TORCH_INDEX) $(TORCH) $(PROGRESS)  # fetches nothing, unless this build needs libraries of its own
	@echo "setup 4/4: tacit itself, with its engine"
	@$(INSTALL) --no-deps --no-build-isolation --editable . $(PROGRESS)
	@touch $(READY)

$(LIBRARY): $(wildcard engine/*.c engine/*.h) engine/build.py | $(READY)
	@$(BIN)/python engine/build.py

engine: $(LIBRARY)  ## compile the engine's library if a source is newer

.PHONY: builders
builders: $(BUILDERS)  ## the compiler for other machines, into .venv

engine-all: $(BUILDERS)  ## every build of the engine, with its size, into build/engine
	@$(BIN)/python engine/build.py --all build/engine

$(BUILDERS): requirements/builds.txt | $(READY)
	@$(INSTALL) --no-deps --require-hashes -r requirements/builds.txt $(PROGRESS)
	@touch $(BUILDERS)

demo: setup  ## twelve device processes train one model on this machine
	@$(BIN)/tacit demo

test: setup  ## every test, on all cores and one more; TESTS=tests/wire narrows it
	@time $(BIN)/python -m pytest -n $(WORKERS) -q $(TESTS)

fuzz-tape: setup  ## changed tapes against the verifier and the kernels for a minute; SECONDS=600 for longer
	@$(BIN)/python -m tests.engine.fuzz_tape --seconds $(SECONDS)

lint: setup  ## style, format, types, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: setup  ## rewrite the sources in the house's format
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench-quick: QUICK := --quick
bench-quick: bench  ## every benchmark, small sizes

bench: setup  ## every benchmark; rows go to build/bench/*.json; bench/ftte.py alone may take half a day
	@mkdir -p build/bench
	@failed=; for script in bench/*.py; do \
	  case "$$script" in */harness.py|*/models.py|*/limits.py|*/tapes.py|*/where.py) continue;; esac; \
	  echo "== $$script"; \
	  $(BIN)/python "$$script" $(QUICK) --json "build/bench/$$(basename "$$script" .py).json" || failed="$$failed $$script"; \
	done; \
	[ -z "$$failed" ] || { echo "error: failed:$$failed" >&2; exit 1; }

docs: setup  ## links in the documents, and the code blocks that must compile
	@$(BIN)/python -m pytest -q tests/test_docs.py

lock:  ## resolve requirements/*.txt anew, after a change of pyproject.toml; needs uv on the PATH
	@uv pip compile pyproject.toml requirements/dev.in --extra serve --extra scale --extra demo --extra dev \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --quiet --output-file requirements/dev.txt
	@sed -n 's/^ZIGLANG_PINNED = "\(.*\)"/\1/p' engine/build.py | uv pip compile - --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet \
	  --output-file requirements/builds.txt
	@echo pip | uv pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command "make lock" --quiet --output-file requirements/pip.txt

clean:  ## remove the environment, what was built, and every cache
	@rm -rf $(VENV) build dist $(LIBRARY) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests bench engine requirements -name __pycache__ -type d -prune -exec rm -rf {} +
