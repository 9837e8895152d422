# Needs Python 3.11 or newer and make; every target sets up its own .venv on first use.
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.densenb-ready
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c "$(NEW_ENOUGH)" 2>/dev/null && echo $$p && break; done)

.PHONY: help setup demo lint test test-slow test-colab screenshots lab notebooks miniature states \
	benchmarks
.DEFAULT_GOAL := help

# Beside other busy processes, OpenMP threads that spin while they wait are many times slower. densenb
# sets this itself when it is imported; here it also reaches the kernels of notebooks.
OMP_WAIT_POLICY ?= PASSIVE
export OMP_WAIT_POLICY

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## create .venv with the tested versions

$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c "$(NEW_ENOUGH)" 2>/dev/null || { \
	  echo "densenb needs Python 3.11 or newer. Install one, or name it: make setup PYTHON=python3.12"; \
	  exit 1; }
	@"$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null || { \
	  echo "$(PYTHON) cannot create a virtual environment: it has no ensurepip."; \
	  echo "On Debian or Ubuntu: sudo apt install python3-venv. Or name another Python:"; \
	  echo "make setup PYTHON=python3.12"; \
	  exit 1; }
	@echo "densenb: set-up 1/3, the virtual environment $(VENV)"
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
	@echo "densenb: set-up 2/3, PyTorch (a large download: minutes on a slow line)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@echo "densenb: set-up 3/3, densenb with its lab, test and nf4 extras (a few minutes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[lab,test,nf4]'
	@touch $@
	@echo "densenb: set-up done"

demo: setup ## paint the same prompt without and with a layout
	@$(VENV)/bin/densenb demo

lint: setup ## ruff, its format, types of the public API, and which room may import which
	@status=0; \
	for tool in "ruff check" "ruff format --check" mypy "lint-imports --no-logo"; do \
	  echo "densenb: $$tool"; $(VENV)/bin/$$tool || status=1; \
	done; \
	exit $$status

NBVAL := --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg \
	--nbval-cell-timeout 1200 -p no:python
WIDGET_TESTS := tests/widgets

# nbval runs apart from the unit tests: it stalls beside other plugins; and so does the browser,
# whose event loop is in the way of other tests. All three always run.
test: setup ## unit tests, browser tests, then every notebook against its stored outputs
	@echo "densenb: unit tests"; status=0; \
	$(PY) -m pytest tests --ignore tests/browser -m "not slow" || status=1; \
	echo "densenb: browser tests"; \
	$(PY) -m pytest tests/browser -m "not slow" || status=1; \
	echo "densenb: notebooks"; \
	$(PY) -m pytest $(NBVAL) notebooks/ || status=1; \
	exit $$status

# Colab's package set, on a CPU. Where pip finds only a CUDA build of torch, this is some 2.5 GB.
COLAB := .venv-colab
COLAB_PY := $(COLAB)/bin/python
COLAB_READY := $(COLAB)/.densenb-ready
COLAB_PYTHON ?= python3.13

test-colab: $(COLAB_READY) ## widget tests and every notebook in Colab's package set (Python 3.13)
	@status=0; $(COLAB_PY) -m pip list --disable-pip-version-check 2>/dev/null | grep -E \
	  "^(anywidget|diffusers|ipykernel|ipython|ipywidgets|matplotlib|numpy|torch|transformers) "; \
	echo "densenb: widget tests in Colab's package set"; \
	$(COLAB_PY) -m pytest $(WIDGET_TESTS) || status=1; \
	echo "densenb: notebooks in Colab's package set"; \
	$(COLAB_PY) -m pytest $(NBVAL) notebooks/ || status=1; \
	exit $$status

$(COLAB_READY): pyproject.toml constraints-colab.txt
	@"$(COLAB_PYTHON)" -c "import sys; sys.exit(sys.version_info[:2] != (3, 13))" 2>/dev/null || { \
	  echo "Colab has Python 3.13. Install it, or name it: make test-colab COLAB_PYTHON=..."; \
	  exit 1; }
	@echo "densenb: set-up of $(COLAB), Colab's versions (a large download)"
	@"$(COLAB_PYTHON)" -m venv --clear $(COLAB)
	@$(COLAB_PY) -m pip install --quiet --disable-pip-version-check -c constraints-colab.txt \
	  -e . anywidget notebook pytest hypothesis nbval nbconvert nbformat packaging setuptools
	@touch $@

test-slow: setup ## each notebook twice in one kernel; mistakes that notebooks have to catch
	@$(PY) -m pytest tests -m slow

screenshots: setup ## walk notebook 11 in a browser, and renew docs/playground.png
	@DENSENB_REQUIRE_BROWSER=1 $(PY) -m pytest tests/browser/test_newcomer.py --screenshots

lab: setup ## open the notebooks in JupyterLab
	@$(PY) -m jupyterlab notebooks

notebooks: setup ## re-execute every notebook in place, clean and check it
	@$(PY) tools/notebooks.py sync
	@$(PY) -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.timeout=600 notebooks/*.ipynb
	@$(PY) tools/notebooks.py clean
	@$(PY) tools/notebooks.py check

miniature: setup ## train the bundled miniature again, into out/miniature
	@$(PY) -m densenb.miniature.training.train all --out out/miniature

# Example: make states LAUNCH=".venv/bin/accelerate launch --num_processes 2 -m"
LAUNCH ?= $(PY) -m
STEPS ?= 13000
FLAGS ?=
SHARED := $(addprefix densenb/miniature/assets/model/,vae tokenizer tokenizer_2 tokenizer_3)

states: setup ## retrain it: its states at 25 %, 50 % and 100 % of training, and a smaller one
	@mkdir -p out/states out/smaller
	@cp -r $(SHARED) out/states && cp -r $(SHARED) out/smaller
	@$(LAUNCH) densenb.miniature.training.train flow --out out/states --steps $(STEPS) --snapshots 0.25 0.5 $(FLAGS)
	@$(LAUNCH) densenb.miniature.training.train flow --out out/smaller --steps $(STEPS) --layers 4 --width 160 $(FLAGS)

benchmarks: setup ## run the speed and memory measurements
	@for script in $(filter-out tests/benchmarks/test_%,$(wildcard tests/benchmarks/*.py)); do \
	  echo "densenb: $$script"; $(PY) "$$script" || exit 1; \
	done
