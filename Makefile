# Two commands are all a newcomer needs: make compare, make test.
# TORCH=no leaves PyTorch out; PYTHON=... chooses the interpreter (3.11 or newer).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= yes
comma := ,
EXTRAS := $(if $(filter no,$(TORCH)),history$(comma)dev,history$(comma)dev$(comma)torch)
STAMP := .venv/.installed-torch-$(TORCH)
BIN := .venv/bin

.PHONY: help .venv compare test test-fast lint types readme clean
.DEFAULT_GOAL := help

help:
	@echo "make compare    check and time every backend on this machine, and train with each"
	@echo "make test       the whole test suite"
	@echo "make test-fast  the tests that take no more than a few seconds"
	@echo "make lint       ruff, rules and format"
	@echo "make types      mypy, strict"
	@echo "make readme     write the tables of README.md anew from results/"
	@echo "make .venv      only install, all extras in it (TORCH=no: without PyTorch)"
	@echo "make clean      remove .venv and caches"

.venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@test -n "$(PYTHON)" || { echo "python3 is not installed"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "cnnbench needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@$(BIN)/python -c 'import importlib.util as u; print("PyTorch", __import__("torch").__version__ if u.find_spec("torch") else "left out")'
	@touch $@

compare: $(STAMP)
	$(BIN)/cnnbench compare $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

readme: $(STAMP)
	$(BIN)/python -m cnnbench.report.readme README.md

clean:
	rm -rf .venv .cnnbench .mypy_cache .pytest_cache .ruff_cache build dist
