# bertjax: `make help` says what there is. Every target makes the environment that it needs first.

VENV ?= .venv
EXTRAS ?= test
ARGS ?=

# The newest Python that bertjax is tested with, else any python3 of at least 3.11. Each is tried by
# running it: a version manager may leave a python3.x on the PATH that does not run, and Debian's
# Python comes without venv.
SUITABLE := import sys, venv, ensurepip; assert sys.version_info >= (3, 11)
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,\
	$(shell $(p) -c '$(SUITABLE)' >/dev/null 2>&1 && command -v $(p))))
VERSION := $(if $(PYTHON),$(shell '$(PYTHON)' -c '$(SUITABLE); print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null))

BIN := $(VENV)/bin
# Stamps: the environment is made anew when pyproject.toml or the interpreter changes.
MADE := $(VENV)/.made-$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help demo test check parity parity-run bench clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile
	@echo "  PYTHON=python3.12 chooses the interpreter, VENV=DIR the environment, ARGS='...' is passed on."

demo: $(VENV)/.has-demo ## from the text on this machine to a BERT and its report, in minutes
	$(BIN)/bertjax demo --workdir runs/demo $(ARGS)

test: $(VENV)/.has-$(EXTRAS) ## the tests, without the slow ones (ARGS='-m "slow or not slow"': all)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadscope $(ARGS)

check: $(VENV)/.has-test ## lint, format, types, and which part may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# An environment of its own, as PyTorch and TensorFlow are large and nothing else needs them.
parity: ## the proof against PyTorch and transformers, live; writes docs/parity.md
	@$(MAKE) --no-print-directory VENV='$(if $(filter .venv,$(VENV)),.venv-parity,$(VENV))' parity-run

parity-run: $(VENV)/.has-test,parity
	rm -rf build/parity
	$(BIN)/python tests/parity/reference.py --output build/parity
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 BERTJAX_PARITY_LOG='$(CURDIR)/build/parity/log.jsonl' \
		$(BIN)/python -m pytest tests/parity -m 'slow or not slow' $(ARGS)
	$(BIN)/python tests/parity/certificate.py build/parity docs/parity.md

bench: $(VENV)/.has-demo ## seconds and tokens a second of a pre-training step on this machine
	$(BIN)/python benchmarks/pretrain_step.py $(ARGS)

clean: ## remove the environment and the caches (not runs/)
	@if [ -e '$(VENV)/pyvenv.cfg' ]; then rm -rf -- '$(VENV)'; fi
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find bertjax tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.has-%: $(MADE)
	@echo "Installing bertjax[$*] into $(VENV): some minutes the first time."
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --editable '.[$*]'
	@touch '$@'

$(MADE): pyproject.toml
	@if [ -z '$(VERSION)' ]; then \
	  for p in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	    if "$$p" -c 'import sys; assert sys.version_info >= (3, 11)' >/dev/null 2>&1; then \
	      echo "$$p has no venv module: install it (on Debian or Ubuntu: apt-get install" \
	        "$$("$$p" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')) and run make again." >&2; \
	      exit 2; \
	    fi; \
	  done; \
	  echo "bertjax needs Python 3.11 or newer, which $(if $(PYTHON),$(PYTHON) is not,was not found):" \
	    "install it (on Debian or Ubuntu: apt-get install python3 python3-venv; on a Mac: brew install python)" \
	    "and run make again, with PYTHON=... if it is not on the PATH." >&2; \
	  exit 2; \
	fi
	@if [ -e '$(VENV)' ] && [ ! -e '$(VENV)/pyvenv.cfg' ]; then \
	  echo "$(VENV) is there and is no Python environment: remove it, or choose another by VENV=DIR." >&2; \
	  exit 2; \
	fi
	@rm -rf -- '$(VENV)'
	'$(PYTHON)' -m venv '$(VENV)'
	@touch '$@'
