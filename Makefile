# A newcomer needs two commands: make compare, make test.
# TORCH=no leaves PyTorch out; PYTHON=... chooses the interpreter (3.11 or newer).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= yes
comma := ,
EXTRAS := history$(comma)report$(comma)sweep$(comma)dev$(if $(filter no,$(TORCH)),,$(comma)torch)
FIGURE := $(addprefix results/amd-epyc-znver4-2-cores/,train-digits-2026-11-28.json time-resnet50-2026-11-28.json)
CURVES := results/amd-epyc-znver4-2-cores/curves-resnet18-textures-2026-11-27.csv
STAMP := .venv/.installed-torch-$(TORCH)
SITE_STAMP := .venv/.installed-site
BIN := .venv/bin

.PHONY: help .venv compare test test-fast lint types readme picture tutorial site history regress regress-selftest sweep-selftest speed clean
.DEFAULT_GOAL := help

help:
	@echo "make compare    check and time every backend on this machine, and train with each"
	@echo "make test       run the whole test suite"
	@echo "make test-fast  run the fast tests only"
	@echo "make lint       ruff, rules and format"
	@echo "make types      mypy, strict"
	@echo "make readme     regenerate figures and tables in the documents from results/"
	@echo "make picture    take the README's picture of a page anew, with Chromium"
	@echo "make tutorial   make the notebook docs/tutorial/tutorial.ipynb from its script"
	@echo "make site       build these documents and all results as a site"
	@echo "make history    measure the kernels at old commits by asv (RANGE=a..b, STEPS=n, QUICK=1)"
	@echo "make regress    tell whether HEAD is slower than BASE=main~1, by asv (MARKDOWN=file)"
	@echo "make regress-selftest  check that make regress flags a slow commit, not a neutral one"
	@echo "make sweep-selftest    kill workers of a sweep; coordinate 200 of them"
	@echo "make speed      time every layer by pytest-benchmark, compare with the last run here"
	@echo "make .venv      only install, with all extras (TORCH=no: without PyTorch)"
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

# In the order of the files: sorted by their number of tests, those that compile most kernels would
# begin together and compile the same ones, and the longest runs would come last.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder $(ARGS)

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

readme: $(STAMP)
	$(BIN)/python -m cnnbench.report.readme README.md docs/measuring.md docs/training.md \
	  kernels/cnnkernels/convolution/numba_winograd/README.md
	$(BIN)/python -m cnnbench.report.index results
	$(BIN)/python -m cnnbench.report.figure $(FIGURE) docs/figures/speed.svg
	$(BIN)/python -m cnnbench.report.curves $(CURVES) docs/figures/curves.svg

picture: $(STAMP)
	$(BIN)/cnnbench report --from $(lastword $(FIGURE)) --output report.html
	chromium --headless --no-sandbox --hide-scrollbars --window-size=800,395 \
	  --screenshot=docs/figures/page.png report.html

tutorial: $(STAMP)
	$(BIN)/jupytext --to ipynb docs/tutorial/tutorial.py
	@echo "To open it: $(BIN)/pip install jupyterlab"
	@echo "            $(BIN)/jupyter lab docs/tutorial/tutorial.ipynb"

site: $(SITE_STAMP)
	rm -rf build/site docs/api
	$(BIN)/sphinx-build --fail-on-warning --keep-going --jobs auto --doctree-dir .cnnbench/doctrees -c docs . build/site
	@echo "Open build/site/index.html"

$(SITE_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS),site]"
	@touch $@

history: $(STAMP)
	$(BIN)/python -m cnnbench.history.measure $(if $(RANGE),--range $(RANGE)) $(if $(QUICK),--quick) $(if $(STEPS),--steps $(STEPS)) $(ARGS)

regress: $(STAMP)
	$(BIN)/python -m cnnbench.history.regress $(if $(BASE),--base $(BASE)) $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

regress-selftest: $(STAMP)
	$(BIN)/python -m cnnbench.history.selftest

sweep-selftest: $(STAMP)
	$(BIN)/python -m cnnbench.sweep.selftest kills
	$(BIN)/python -m cnnbench.sweep.selftest costs

# Several libraries share one process here: with one thread each, their pools stay out of the way.
speed: $(STAMP)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 \
	  $(BIN)/python -m pytest bench/speed -W default::pytest_benchmark.logger.PytestBenchmarkWarning --benchmark-enable --benchmark-autosave --benchmark-compare \
	  --benchmark-storage=file://.cnnbench/speed/$$($(BIN)/python -c 'from cnnbench import machine; print(machine.name())') \
	  --benchmark-columns=median,iqr,rounds --benchmark-group-by=group --benchmark-sort=name $(ARGS)

clean:
	rm -rf .venv .asv .cnnbench .mypy_cache .pytest_cache .ruff_cache build dist docs/api docs/results
