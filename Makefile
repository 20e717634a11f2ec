# Everything runs in .venv, made from requirements.txt. Nothing outside this folder is written.

SHELL := bash
PYTHON ?= python3
RUN := .venv/bin/python
CORES := $(shell getconf _NPROCESSORS_ONLN)
# One thread a process: the same numbers on every machine, and no processes fighting for the cores.
CHECK := OMP_NUM_THREADS=1 WDTR_WIDGETS=static $(RUN) -m pytest -p no:cacheprovider
# The first place where kernels are looked for: the chapters run on this environment's, wherever else there are some.
export JUPYTER_PATH := $(CURDIR)/.venv/share/jupyter
SUBMAKE := $(MAKE) --silent --no-print-directory

# The longest first, so that at the end no core waits for one.
LONGEST := training natural_variation adversarial
CHAPTERS := $(LONGEST) $(filter-out $(LONGEST),$(patsubst book/%.ipynb,%,$(wildcard book/*.ipynb)))
SELECTED := $(or $(CHAPTER),$(CHAPTERS))
UNKNOWN := $(filter-out $(CHAPTERS),$(SELECTED))
$(if $(UNKNOWN),$(error no notebook book/$(UNKNOWN).ipynb; CHAPTER is one of: $(CHAPTERS)))

NOTEBOOKS := $(CHAPTERS:%=book/%.ipynb)
# What a chapter's numbers, and what the pages beside them, are made from.
CODE := .venv/.installed $(wildcard tools/*.py wdtr_lite/*.py wdtr_lite/*/*.py wdtr_lite/*/*/*.* results/*)
PAGES := $(NOTEBOOKS) $(CODE) _config.yml _toc.yml \
	$(wildcard book/*.md book/*.bib book/*/*.md book/_ext/*.py book/_static/* book/_templates/* book/figures/*)

.PHONY: help book test lint unit oldest lab notebooks results clean
.DELETE_ON_ERROR:

help:
	@echo "make book [CHAPTER=name]       execute the chapters (or one), build the HTML, print its path"
	@echo "make test                      lint, unit tests, doctests, notebooks, the book's build, browser checks"
	@echo "make lint                      ruff and pyright"
	@echo "make unit                      the unit tests and doctests alone"
	@echo "make oldest                    the core's tests with the oldest versions that pyproject.toml allows"
	@echo "make lab                       open JupyterLab"
	@echo "make notebooks [CHAPTER=name]  execute the chapters (or one) and store their outputs in book/"
	@echo "make results                   run the full experiments, which write results/"
	@echo "make clean                     remove what was built (not .venv)"
	@echo "Chapters: $(sort $(CHAPTERS))"

.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed and $(PYTHON) is not it: make … PYTHON=python3.11" >&2; exit 1; }
	@echo "Installing into .venv (about 5 GB, some minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(RUN) -m pip install -qq --disable-pip-version-check --no-deps -e .
	@$(RUN) -c 'import matplotlib.font_manager' # builds its font cache, with a warning no chapter should show
	@touch $@

# --- make book: executed copies of the chapters ---

book:
	@if $(SUBMAKE) --question _build/html/index.html; then echo "Nothing has changed since the last build."; \
	else $(SUBMAKE) -j$(CORES) _build/html/index.html; fi
	@echo "The book: $(CURDIR)/_build/html/index.html"

_build/executed/%.ipynb: book/%.ipynb $(CODE)
	@$(RUN) tools/notebooks.py run $< $@ profile=quick
	@touch $@

_build/html/index.html: $(SELECTED:%=_build/executed/%.ipynb) $(PAGES)
	@$(RUN) tools/notebooks.py stage _build/source _build/executed
	@.venv/bin/jupyter-book build -q _build/source --path-output . >/dev/null
	@touch $@

# --- make test: the stored chapters ---

NBVAL := $(CHAPTERS:%=_build/checked/%)
PARTS := _build/stored/built $(NBVAL) _build/browser

# The unit tests run beside the other parts, with a worker a core: none is idle before the last is done.
test:
	@unchanged=$$(for part in $(PARTS); do if $(SUBMAKE) --question $$part; then echo "$${part#_build/}"; fi; done); \
	if [ "$$unchanged" ]; then echo "Nothing has changed since these passed; not repeated:" $$unchanged; fi
	@$(SUBMAKE) -j$$(($(CORES) + 1)) --keep-going --output-sync unit lint $(PARTS)

lint: .venv/.installed
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright # it would ask the network for a newer one

unit: .venv/.installed
	@$(CHECK) -n $(CORES) --ignore=tests/browser --cov

# Strict nbval, of the changed chapters only unless what they are made from changed.
_build/checked/%: book/%.ipynb $(CODE) tests/nbval_sanitize.cfg
	@echo "$<"
	@$(CHECK) -q --nbval --nbval-sanitize-with=tests/nbval_sanitize.cfg $<
	@mkdir -p $(@D) && touch $@

# From nothing each time: after a failed build Sphinx does not repeat the warnings of the pages it has read.
_build/stored/built: $(PAGES)
	@rm -rf _build/stored
	@$(RUN) tools/notebooks.py stage _build/stored/source
	@.venv/bin/jupyter-book build -q -W -n --keep-going _build/stored/source --path-output _build/stored >/dev/null || \
		{ echo "In NAME.ipynb:30012, 3 is the cell and 12 the line in it." >&2; exit 1; }
	@touch $@

_build/browser: _build/stored/built $(wildcard tests/browser/*.py tests/browser/*.js)
	@$(CHECK) -n $(CORES) -rs tests/browser
	@if command -v chromium chromium-browser google-chrome >/dev/null; then touch $@; fi # else: skipped

# --- make oldest ---

CORE_TESTS := attacks calculus checks data evaluation folders graph metric models noise penalties regularizer training transport

.venv-oldest/.installed: pyproject.toml
	@echo "Installing the oldest versions that pyproject.toml allows into .venv-oldest"
	@$(PYTHON) -m venv .venv-oldest
	@sed -nE 's/^ +"([A-Za-z-]+)>=([0-9.]+).*/\1==\2/p' pyproject.toml > .venv-oldest/constraints.txt
	@.venv-oldest/bin/python -m pip install -qq --disable-pip-version-check \
		-c .venv-oldest/constraints.txt -e ".[book,attack,cluster]" $$(grep -E '^(pytest|pytest-xdist|hypothesis|foolbox)=' requirements.txt)
	@touch $@

oldest: .venv-oldest/.installed
	@OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -p no:cacheprovider -n $(CORES) \
		-W ignore::DeprecationWarning $(CORE_TESTS:%=tests/test_%.py) # an old matplotlib with a new pyparsing

# --- the rest ---

lab: .venv/.installed
	@$(RUN) -m jupyterlab

notebooks: .venv/.installed
	@$(SUBMAKE) -j$(CORES) $(SELECTED:%=store-%)

store-%:
	@$(RUN) tools/notebooks.py store book/$*.ipynb

results: .venv/.installed
	@$(RUN) -m wdtr_lite experiment all --profile cpu

clean:
	rm -rf _build .pytest_cache .hypothesis
