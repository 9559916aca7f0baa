# `make help` lists the targets. Each first makes the environment that it needs.

VENV ?= .venv
EXTRAS ?= test
ARGS ?=

# The newest Python that bertjax is tested with, else any python3 from 3.11 on. Each candidate is run
# once: a version manager may leave a python3.x on the PATH that does not run, and Debian's Python has
# no venv.
SUITABLE := import sys, venv, ensurepip; assert sys.version_info >= (3, 11)
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,\
	$(shell $(p) -c '$(SUITABLE)' >/dev/null 2>&1 && command -v $(p))))
VERSION := $(if $(PYTHON),$(shell '$(PYTHON)' -c '$(SUITABLE); print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null))

BIN := $(VENV)/bin
# A stamp file. The environment is made again when pyproject.toml or the interpreter changes.
MADE := $(VENV)/.made-$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help demo test check parity parity-run bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile
	@echo "  PYTHON=python3.12 chooses the interpreter, VENV=DIR the environment, ARGS='...' adds arguments."

demo: $(VENV)/.has-demo ## from the text on this machine to a BERT and its report, in minutes
	$(BIN)/bertjax demo --workdir runs/demo $(ARGS)

test: $(VENV)/.has-$(EXTRAS) ## the tests except the slow ones (ARGS='-m "slow or not slow"': all)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadscope --no-loadscope-reorder $(ARGS)

check: $(VENV)/.has-test ## lint, format, types, and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Parity has its own environment: PyTorch and TensorFlow are large, and nothing else needs them.
parity: ## compare with PyTorch and transformers; writes docs/parity.md
	@$(MAKE) --no-print-directory VENV='$(if $(filter .venv,$(VENV)),.venv-parity,$(VENV))' parity-run

parity-run: $(VENV)/.has-test,parity
	rm -rf build/parity
	$(BIN)/python tests/parity/reference.py --output build/parity
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 BERTJAX_PARITY_LOG='$(CURDIR)/build/parity/log.jsonl' \
		$(BIN)/python -m pytest tests/parity -m 'slow or not slow' $(ARGS)
	$(BIN)/python tests/parity/certificate.py build/parity docs/parity.md

bench: $(VENV)/.has-demo ## measure a pre-training step on this machine
	$(BIN)/python benchmarks/pretrain_step.py $(ARGS)

clean: ## remove the environment and the caches (not runs/)
	@if [ -e '$(VENV)/pyvenv.cfg' ]; then rm -rf -- '$(VENV)'; fi
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find bertjax tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.has-%: $(MADE)
	@echo "Installing bertjax[$*] into $(VENV); the first time takes some minutes."
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
	  echo "$(VENV) exists and is no Python environment: remove it, or choose another with VENV=DIR." >&2; \
	  exit 2; \
	fi
	@rm -rf -- '$(VENV)'
	'$(PYTHON)' -m venv '$(VENV)'
	@touch '$@'
