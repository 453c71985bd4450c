# The commands of the book. Type `make` for the list.
# Settings: PROFILE=smoke|demo|evening|gpu|paper   PYTHON=python3.12   VENV=.venv
#           VENV_FLAGS=--system-site-packages   (keep a torch 2.11 to 2.13 that the machine has)

PYTHON ?= python3
VENV ?= .venv
VENV_FLAGS ?=
PROFILE ?= demo
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup book test lab clean

help: ## list these commands
	@echo "Image2Point, the book:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Settings, for example: make book PROFILE=smoke PYTHON=python3.12"

setup: $(READY) ## make the environment in .venv (the other commands do it when needed)

book: $(READY) ## execute every chapter at PROFILE (default demo) and build the HTML
	@$(BIN)/i2p book --profile $(PROFILE)

test: $(READY) ## run all tests
	@$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 \
		--dist=loadfile --no-loadscope-reorder

lab: $(READY) ## open JupyterLab on the notebooks
	@bin="$$(cd $(BIN) && pwd)" && cd notebooks && "$$bin/jupyter" lab

clean: ## remove what was built (_build); trained runs in _runs and the environment stay
	rm -rf _build

$(READY): requirements.lock pyproject.toml environment.py i2p_lib/torchvision_shim.py
	@$(PYTHON) environment.py check
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	@$(BIN)/python environment.py install
	@touch $@
