# Everything runs in .venv, which is made on first use and again when pyproject.toml or constraints.txt change.
#
#   GPU=1            faiss's build with GPU code instead of the CPU one (words on a GPU are found by torch, with either)
#   PIP_ARGS=...     more arguments for pip, for example
#                    PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" for the smaller torch
#   PYTHON=python3   the interpreter that makes .venv (3.11 or newer)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BACKEND := $(if $(filter-out 0,$(GPU)),gpu,cpu)
OTHER_FAISS := $(if $(filter gpu,$(BACKEND)),faiss-cpu,faiss-gpu-cu12)

# A stamp's name carries what was installed and from which pins: switching branches does not reinstall.
KEY := $(BACKEND)-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.installed-$(KEY)

# Where the real photographs are, if they lie beside the checkout and nobody said otherwise.
ifndef RETRIEVAL_REAL_DATA
RETRIEVAL_REAL_DATA := $(abspath $(wildcard ../shared/data))
endif

.PHONY: help demo test test-web soak lint wheel docs evaluate-real real-data bench open-patches more-patches train train-small train-shapes clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do \
		printf '  make %-15s %s\n' "$$name" "$$text"; done
	@echo "Variables: GPU=1, PIP_ARGS=..., PYTHON=... (see the top of the Makefile)"

demo: $(STAMP) ## Generate photographs, index and search them, print the table
	$(BIN)/python -m retrieval.datasets.planar data/demo
	$(BIN)/python run_oxford5k.py --config configs/demo.yaml --work runs/demo

# A process for each core, up to 8: beyond them the longest file of tests says how long it takes.
CORES := $(shell n=$$(nproc 2> /dev/null || echo 1); echo $$(( n > 8 ? 8 : n )))

test: $(STAMP) ## Run the tests; RETRIEVAL_THOROUGH=1 leaves nothing out
	$(BIN)/python -m pytest $(if $(filter-out 1,$(CORES)),-n $(CORES) --dist loadfile --no-loadscope-reorder)

soak: $(STAMP) ## Kill 200 writers, read for a minute, fail every write, flip thousands of bits, search as 64 clients (about 12 minutes); learn a million words (half an hour of a core)
	RETRIEVAL_SOAK=1 $(BIN)/python -m pytest tests/index/test_survival.py tests/index/test_durability.py tests/index/test_checking.py --durations=10
	RETRIEVAL_SOAK=1 $(BIN)/python -m pytest tests/photographs/test_hostile.py tests/web/test_hostile.py -s
	RETRIEVAL_SOAK=1 $(BIN)/python -m pytest tests/web/test_server.py -k test_many_at_once -s
	RETRIEVAL_SOAK=1 $(BIN)/python -m pytest tests/vocabulary/test_million_words.py -s

# The page in a browser: Debian's Chromium, and axe-core, which npm brings into the cache below runs/ (never committed).
BROWSER := $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))
AXE_VERSION := 4.14.1
AXE := runs/web/cache/axe-core-$(AXE_VERSION)/package/axe.min.js

test-web: $(STAMP) ## Test the search page in a browser (chromium); screenshots in runs/web
	@[ -n "$(BROWSER)" ] || { echo "skipped: no browser to test the search page in (sudo apt-get install chromium)"; exit 0; }; \
	if [ ! -f $(AXE) ]; then $(MAKE) --no-print-directory $(AXE) || \
		echo "axe-core could not be fetched with npm: accessibility is not checked" >&2; fi; \
	axe=$$([ -f $(AXE) ] && echo "$(abspath $(AXE))" || true); \
	RETRIEVAL_BROWSER="$(BROWSER)" RETRIEVAL_AXE="$$axe" $(BIN)/python -m pytest tests/web/test_browser.py -rs

$(AXE):
	@mkdir -p $(dir $@).. && cd $(dir $@).. && npm pack --silent axe-core@$(AXE_VERSION) > /dev/null && \
		tar xzf axe-core-$(AXE_VERSION).tgz package/axe.min.js && rm axe-core-$(AXE_VERSION).tgz

lint: $(STAMP) ## Check style, types and that imports go down the floors of docs/architecture.md
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(STAMP) ## Build the documentation site in runs/site; warnings and broken links are errors
	$(BIN)/sphinx-build -b html -W --keep-going -n -q docs runs/site
	@echo "to be opened in a browser: runs/site/index.html"

wheel: $(STAMP) ## Build wheel and sdist into dist/, and try the wheel in a fresh environment outside the checkout
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(PYTHON) -m venv dist/try
	dist/try/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) \
		"$$(ls $(CURDIR)/dist/*.whl)[$(BACKEND),web]"
	dist/try/bin/python .ci/try_wheel.py
	rm -rf dist/try

evaluate-real: | real-data $(STAMP) ## Measure on real photographs: RETRIEVAL_REAL_DATA=DIR
	RETRIEVAL_REAL_DATA="$(RETRIEVAL_REAL_DATA)" $(BIN)/python -m benchmarks.evaluate_real

real-data:
	@[ -n "$(RETRIEVAL_REAL_DATA)" ] || { \
		echo "Say where the real photographs are: make $(firstword $(MAKECMDGOALS)) RETRIEVAL_REAL_DATA=DIR" >&2; exit 2; }

bench: $(STAMP) ## Measure speed beside the peers, and descriptors on scenes never trained on
	RETRIEVAL_REAL_DATA="$(RETRIEVAL_REAL_DATA)" $(BIN)/python -m benchmarks.detector
	RETRIEVAL_REAL_DATA="$(RETRIEVAL_REAL_DATA)" $(BIN)/python -m benchmarks.extraction
	RETRIEVAL_REAL_DATA="$(RETRIEVAL_REAL_DATA)" $(BIN)/python -m benchmarks.describe
	RETRIEVAL_REAL_DATA="$(RETRIEVAL_REAL_DATA)" $(BIN)/python -m benchmarks.query
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -c constraints.txt $(PIP_ARGS) asmk || \
		echo "asmk was not installed (it takes a C compiler): the comparison with it is left out" >&2
	RETRIEVAL_REAL_DATA="$(RETRIEVAL_REAL_DATA)" $(BIN)/python -m benchmarks.signatures
	RETRIEVAL_REAL_DATA="$(RETRIEVAL_REAL_DATA)" $(BIN)/python -m benchmarks.descriptors

# The patch sets of configs/hardnet/open.yaml, as docs/training.md describes them.
PATCHES := data/patches/open
TRAINED := bark bikes trees ubc v_wormhole
HELD_OUT := boat leuven v_dogman
# Some of them again, of regions that are round in their photographs: for the training of shapes.
ROUND := data/patches/round
$(ROUND)/%: SHAPES := --set detector.shape=none

$(PATCHES)/sf300 $(ROUND)/sf300: | real-data $(STAMP)
	$(BIN)/retrieval patches synthetic "$(RETRIEVAL_REAL_DATA)/sf300/images" -o $@ --limit 400 --views 4 --seed 1 $(SHAPES)

$(PATCHES)/views: | real-data $(STAMP)
	$(BIN)/retrieval patches synthetic $(foreach name,castle-P30 entry-P10,"$(RETRIEVAL_REAL_DATA)/strecha/$(name)") \
		$(foreach name,$(TRAINED),"$(RETRIEVAL_REAL_DATA)/sequences/$(name)/1.jpg") -o $@ --limit 600 --views 4 --seed 2

$(PATCHES)/sequences: | real-data $(STAMP)
	$(BIN)/retrieval patches sequences $(foreach name,$(TRAINED),"$(RETRIEVAL_REAL_DATA)/sequences/$(name)") -o $@ --limit 4000

$(PATCHES)/multiview $(ROUND)/multiview: | real-data $(STAMP)
	$(BIN)/retrieval patches multiview $(foreach name,castle-P30 entry-P10,"$(RETRIEVAL_REAL_DATA)/strecha/$(name)") -o $@ $(SHAPES)

$(PATCHES)/fountain: | real-data $(STAMP)
	$(BIN)/retrieval patches multiview "$(RETRIEVAL_REAL_DATA)/strecha/fountain-P11" -o $@

$(PATCHES)/hpatches-heldout: | real-data $(STAMP)
	$(BIN)/retrieval patches hpatches $(foreach name,$(HELD_OUT),"$(RETRIEVAL_REAL_DATA)/sequences/$(name)") -o $@

# More photographs, in $(RETRIEVAL_REAL_DATA)/train: single ones, and scenes that COLMAP reconstructs first.
MORE = $(RETRIEVAL_REAL_DATA)/train
MODELS := runs/reconstructions
ONE_CAMERA := sceaux chalmers_church_door chalmers_round_church chalmers_garden_fountain chalmers_castle_facade \
	chalmers_toy_dino cyprus_arch monstree lund_street et kermit
SCENES := $(ONE_CAMERA) san_marco st_pauls
one_of = $(firstword $(sort $(wildcard $(1)/*.jpg)))
SINGLE = $(foreach scene,$(sort $(wildcard $(MORE)/pano/*)),$(call one_of,$(scene))) \
	$(sort $(wildcard $(MORE)/pairs_f/*A.jpg)) $(sort $(wildcard $(MORE)/pairs_h/*A.jpg)) \
	$(sort $(wildcard $(MORE)/pairs_evd/*A.jpg)) $(sort $(wildcard $(MORE)/iium_day/*_1.jpg)) \
	$(foreach scene,baal_temple london_bridge us_capitol berlin_dom,$(sort $(wildcard $(MORE)/$(scene)/*.jpg))) \
	$(MORE)/chalmers_kronan/kronan1.jpg

$(PATCHES)/facades $(ROUND)/facades: | real-data $(STAMP)
	$(BIN)/retrieval patches synthetic "$(MORE)/spb_facades" "$(MORE)/urban100" -o $@ --limit 400 --views 4 --seed 3 $(SHAPES)

$(PATCHES)/scenes: | real-data $(STAMP)
	$(BIN)/retrieval patches synthetic $(SINGLE) -o $@ --limit 400 --views 4 --seed 4

$(MODELS)/%/sparse/0: | real-data
	@command -v colmap > /dev/null || { echo "COLMAP is missing: sudo apt-get install colmap" >&2; exit 2; }
	rm -rf $(MODELS)/$*
	mkdir -p $(MODELS)/$*/sparse
	colmap feature_extractor --database_path $(MODELS)/$*/database.db --image_path "$(MORE)/$*" \
		--ImageReader.single_camera $(if $(filter $*,$(ONE_CAMERA)),1,0) --SiftExtraction.use_gpu 0
	colmap exhaustive_matcher --database_path $(MODELS)/$*/database.db --SiftMatching.use_gpu 0
	colmap mapper --database_path $(MODELS)/$*/database.db --image_path "$(MORE)/$*" --output_path $(MODELS)/$*/sparse

$(PATCHES)/reconstructions: $(foreach scene,$(SCENES),$(MODELS)/$(scene)/sparse/0) | real-data $(STAMP)
	$(BIN)/retrieval patches colmap $(MODELS)/$(firstword $(SCENES))/sparse/0 "$(MORE)/$(firstword $(SCENES))" \
		$(foreach scene,$(wordlist 2,99,$(SCENES)),--also $(MODELS)/$(scene)/sparse/0 "$(MORE)/$(scene)") -o $@ --limit 6000

open-patches: $(addprefix $(PATCHES)/,sf300 views sequences multiview fountain hpatches-heldout) ## Cut the patches that the bundled weights were first trained on

more-patches: $(addprefix $(PATCHES)/,facades scenes reconstructions) ## Cut those of the third stage (half an hour, most of it COLMAP's)

train: open-patches more-patches ## Train the bundled weights again (three hours on 2 cores): runs/open, open-2, open-3, open-4
	$(BIN)/hardnet train configs/hardnet/open.yaml --run runs/open
	$(BIN)/hardnet train configs/hardnet/open-2.yaml --run runs/open-2
	$(BIN)/hardnet train configs/hardnet/open-3.yaml --run runs/open-3
	$(BIN)/hardnet train configs/hardnet/open-4.yaml --run runs/open-4

train-small: train ## Train the smaller network from these (two hours on 2 cores): runs/hardnet-small, small-2
	$(BIN)/hardnet train configs/hardnet/small.yaml --run runs/hardnet-small
	$(BIN)/hardnet train configs/hardnet/small-2.yaml --run runs/small-2

train-shapes: $(addprefix $(ROUND)/,sf300 facades multiview) $(PATCHES)/fountain ## Train shapes of regions with the bundled weights (half an hour on 2 cores): runs/affnet
	$(BIN)/hardnet train configs/hardnet/affnet.yaml --run runs/affnet

clean: ## Remove caches and build files; keeps .venv, data and runs
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find retrieval hardnet benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment serves the demo and the tests, so the tests need no network after `make demo` either.
$(STAMP):
	@command -v $(PYTHON) > /dev/null || { \
		echo "$(PYTHON) is missing. Install it: sudo apt-get install python3 python3-venv python3-pip" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
			"Name another one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
		echo "Python's venv is missing. Install it: sudo apt-get install python3-venv python3-pip" >&2; exit 2; }
	@[ -x $(BIN)/python ] && $(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $(VENV)/.installed-*
	@if $(BIN)/python -m pip show -q $(OTHER_FAISS) 2> /dev/null; then \
		$(BIN)/python -m pip uninstall -q -y $(OTHER_FAISS); fi
	@echo "Installing extras $(BACKEND), demo, dev, docs into $(VENV): some minutes the first time"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[$(BACKEND),demo,dev,docs]'
	@touch $(STAMP)
