# `make` alone lists what there is. PYTHON chooses the interpreter, VENV the folder of the virtual environment.

VENV ?= .venv
EXTRAS ?= dev
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-targets test-hard test-busy test-pythons peers licences hashes examples docs lint format bench clean nerfstudio

studio := $(VENV)/bin/studio
python := $(VENV)/bin/python
# Files that say what is installed; a change of any installs again.
recipe := pyproject.toml constraints.txt scripts/install.sh
# What ruff looks at besides the packages, whose types mypy checks too.
linted := studio plugins examples tests benchmarks scenes scripts

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS=$$'\t' read -r name text; do \
		printf '  make %-13s %s\n' "$$name" "$$text"; done

$(VENV)/.installed: $(recipe)
	@scripts/install.sh $(VENV)
	@touch $@

# With everything for development there is all that running needs.
$(VENV)/.installed-dev: $(recipe)
	@scripts/install.sh $(VENV) $(EXTRAS)
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed ## Train the bundled scene in about two minutes, render an orbit, measure it
	@# The training below has a budget of time, of which compiling on a slow machine would eat too much.
	@echo "Compiling the kernels for this processor (half a minute, the first time only)"
	@$(studio) train splat scenes/tabletop --preset quick --steps 40 --refine-every 10 --no-previews \
		--output $(VENV)/warm-up >/dev/null
	@rm -rf $(VENV)/warm-up
	$(studio) train splat scenes/tabletop --preset quick --budget 110s
	$(studio) render runs/tabletop/splat --path orbit --output runs/tabletop/orbit.mp4
	$(studio) eval runs/tabletop/splat
	@run=$$(ls -d runs/tabletop/splat/*/ | tail -n 1); printf '%s\n' "" \
		"Orbit video:               runs/tabletop/orbit.mp4" \
		"Photo | render | error:    $${run}eval/" \
		"Previews while training:   $${run}previews/" \
		"Figures of every photo:    $${run}eval.json"

test: $(VENV)/.installed-dev ## Run the tests
	$(python) -m pytest $(PYTEST_ARGS)

# Another order than the files' own, the same each time: SEED=random for a new one.
SEED ?= 17

test-hard: $(VENV)/.installed-dev ## The tests in random order, another time zone and locale, read-only home, no network
	scripts/hard_conditions.sh $(MAKE) test PYTEST_ARGS="-p randomly -p no:cacheprovider \
		$(if $(filter random,$(SEED)),,--randomly-seed=$(SEED)) -rs $(PYTEST_ARGS)"

test-busy: $(VENV)/.installed-dev ## What waits for others (viewer, devices, training), on one core that others use too
	scripts/busy_core.sh $(python) -m pytest -p no:cacheprovider \
		$(or $(PYTEST_ARGS),tests/studio/viewer tests/studio/devices tests/studio/training)

test-pythons: $(VENV)/.installed-dev ## A fast part of the tests with Python 3.10, 3.12 and 3.13, as far as they can be had
	scripts/test_pythons.sh $(VENV) $(PYTHONS)

peers: ## Hold the numerics against gsplat, nerfacc, OpenCV, COLMAP, diffusers and others, in an environment of its own
	PYTHON="$(PYTHON)" scripts/check_peers.sh $(VENV)-peers

licences: $(VENV)/.installed-dev ## List the licences of all that is installed with the studio (docs/licences.md)
	$(python) scripts/licences.py docs/licences.md

hashes: $(VENV)/.installed-dev ## Write requirements.txt: the pinned set with the hashes of its files
	scripts/write_hashes.sh $(python)

test-targets: $(VENV)/.installed-dev ## Test the kernels for SSE4.2, AVX2, AVX-512 and NEON (TARGETS="x86-64-v3 ...")
	scripts/test_targets.sh $(VENV) $(TARGETS)

examples: $(VENV)/.installed-dev ## Install the example plugins and new ones as a stranger would, and check them
	scripts/check_examples.sh $(python)

# Marked by itself, so that an environment that was made without the tools of the documentation gets them.
$(VENV)/.installed-docs: $(VENV)/.installed-dev
	@$(python) -c "import mkdocs, material, mkdocstrings" 2>/dev/null || scripts/install.sh $(VENV) $(EXTRAS),docs
	@touch $@

docs: $(VENV)/.installed-docs ## Build the documentation into build/docs
	NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict --quiet
	@echo "build/docs/index.html"

nerfstudio: ## Make an environment with nerfstudio (3.5 GB) and test the bridge to it
	PYTHON="$(PYTHON)" scripts/check_nerfstudio.sh $(VENV)-nerfstudio

lint: $(VENV)/.installed-dev ## Check style (ruff) and types (mypy)
	$(python) -m ruff check $(linted)
	@# Text is UTF-8 in every locale: a call that leaves it to the locale is refused.
	$(python) -m ruff check --quiet --preview --select PLW1514 $(linted)
	$(python) -m ruff format --check $(linted)
	$(python) scripts/undefined_names.py $(linted)
	$(python) -m mypy

format: $(VENV)/.installed-dev ## Bring the code into shape
	$(python) -m ruff check --fix $(linted)
	$(python) -m ruff format $(linted)

bench: $(VENV)/.installed ## Run the quick benchmarks; benchmarks/README.md lists all of them
	$(python) benchmarks/cli_latency.py

clean: ## Delete the environment and what the tools leave; runs/ stays
	rm -rf $(VENV) $(VENV)-nerfstudio $(VENV)-peers $(VENV)-3.1? build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find studio plugins tests benchmarks scenes scripts -name __pycache__ -type d -prune -exec rm -rf {} +
