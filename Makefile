# Everything a person types here. Needs python3 (3.11 or newer), make, and a compiler only for the group `parity`.
#
#   make demo [DATA=folder] [MODEL=name-or-folder] [OUT=folder]
#   make install-dev | test | test-slow | lint | bench | docs
#   make box MODEL=folder DATA=folder [CARD=file.json] [BETTER="--better campplus"]
#
# PYTHON=python3.12 chooses the interpreter, VENV=folder another environment, PIP_FLAGS="..." adds options for pip.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?=
# Speech for the demo; a clone may have some beside it, else the demo finds its own.
DATA ?= $(wildcard ../shared/speech)
CONSTRAINTS := constraints/pinned.txt

# Inside an activated environment the development targets use that one and install nothing.
ifdef VIRTUAL_ENV
TOOLS := $(VIRTUAL_ENV)/bin
DEV_READY :=
DOCS_READY :=
else
TOOLS := $(VENV)/bin
DEV_READY := $(VENV)/.installed-dev
DOCS_READY := $(VENV)/.installed-docs
endif

PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help demo install-dev test test-slow lint bench docs box

help:
	@sed -n 's/^#   //p' Makefile

# pip with dependency groups is 25.1 or newer; the pinned one is taken before anything else.
$(VENV)/.pip: $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "nestvox needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip
	@touch $@

# With ONNX Runtime the demo embeds in three quarters of the time.
$(VENV)/.installed: $(VENV)/.pip pyproject.toml
	@echo "installing nestvox into $(VENV) (once; torch is the large part)"
	$(PIP_INSTALL) --build-constraint $(CONSTRAINTS) -e '.[torch,demo,onnx]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.pip pyproject.toml
	$(PIP_INSTALL) --build-constraint $(CONSTRAINTS) -e '.[torch,demo,sklearn,vad,av,codec,onnx,parquet,plots,ray,diarization,search]' --group test --group lint --group oracles
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(PIP_INSTALL) --group docs
	@touch $@

demo: $(VENV)/.installed
	$(VENV)/bin/nestvox demo $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") $(if $(OUT),--out "$(OUT)")

install-dev: $(VENV)/.installed-dev

# Two processes with one thread each: small networks gain nothing from a second thread.
test: $(DEV_READY)
	OMP_NUM_THREADS=1 $(TOOLS)/python -m pytest -m "not slow" -n 2 --dist loadfile $(PYTEST_FLAGS)

# One thread, as above: that of numpy's matrix products too, which several children of a test would fight over.
test-slow: $(DEV_READY)
	OMP_NUM_THREADS=1 $(TOOLS)/python -m pytest -m slow --timeout 1800 $(PYTEST_FLAGS)

lint: $(DEV_READY)
	$(TOOLS)/ruff check
	$(TOOLS)/ruff format --check
	$(TOOLS)/mypy
	$(TOOLS)/lint-imports

# Each benchmark is a script that prints a table; --help says what it needs.
bench: $(DEV_READY)
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(TOOLS)/python "$$script" || exit 1; done

docs: $(DOCS_READY)
	$(TOOLS)/zensical build --clean

# The model that the package carries, of one that was trained; chosen and calibrated on the development trials of DATA.
BOX ?= src/nestvox/box
box: $(DEV_READY)
	@test -n "$(MODEL)" || { echo "which model? make box MODEL=folder" >&2; exit 2; }
	$(TOOLS)/python -m nestvox.compression.box "$(MODEL)" --out "$(BOX)" --trials "$(DATA)/trials_dev.txt" \
		--table "$(DATA)/utterances.tsv" $(if $(CARD),--card "$(CARD)") $(BETTER)
