# Everything a person types. Set-up happens by itself, once; setup.sh does it.

PYTHON_HERE := .venv/bin/python
ARGS :=

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

run: .venv/.runtime cli ## start the server; Ctrl-C ends it
	@exec $(PYTHON_HERE) -m main

demo: .venv/.runtime cli ## the same against a model that only echoes: no account needed
	@exec $(PYTHON_HERE) -m tests.fakes.demo

test: .venv/.developer cli packages ## run the tests; ARGS="-k name" chooses some
	@$(PYTHON_HERE) -m pytest $(ARGS)

lint: .venv/.developer ## style, format and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@$(PYTHON_HERE) -m mypy

bench: .venv/.developer cli packages ## measure speed and memory, and print a table
	@$(PYTHON_HERE) -m bench.sessions $(ARGS)

requirements: .venv/.developer ## pin the packages anew; ARGS=--upgrade takes newer ones
	@$(COMPILE) $(ARGS) -o requirements.txt
	@$(COMPILE) $(ARGS) --extra dev -c requirements.txt -o requirements-dev.txt

clean: ## remove what was installed and cached, never the data
	rm -rf .venv node_modules .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +

COMPILE = .venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-config --custom-compile-command 'make requirements'

.venv/.runtime: requirements.txt $(PYTHON_HERE)
	@./setup.sh runtime

.venv/.developer: requirements-dev.txt $(PYTHON_HERE)
	@./setup.sh developer

# Not a file when its Python has left the machine: the environment is then made anew.
$(PYTHON_HERE): ;

cli: node_modules/.installed
node_modules/.installed: package.json package-lock.json
	@./setup.sh cli

packages:
	@./setup.sh packages bwrap:bubblewrap initdb:postgresql

.PHONY: help run demo test lint bench requirements clean cli packages
