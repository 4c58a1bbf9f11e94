# The only commands to remember. `make demo` and `make test` set up what is missing, in .venv, and need git, make and Python 3.11 only.

PYTHON ?= python3
BIN := .venv/bin
FOR ?=
TESTS ?= tests

.PHONY: help demo test faults check docs bench lock cases-update clean

help:  ## print these lines
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20

demo: .venv/.demo  ## collect real data from three protocols into SQLite and a file, until Ctrl-C (FOR=20s: for that time)
	@$(BIN)/python examples/demo/run.py $(if $(FOR),--for $(FOR))

test: .venv/.dev  ## every test, against real servers on loopback (TESTS=tests/karez/test_step.py: some of them)
	$(BIN)/python -m pytest -n auto --dist loadfile -q $(TESTS)

faults: .venv/.dev  ## real processes killed and servers away for as long as it really happens: 20 minutes
	$(BIN)/python -m pytest -n 2 --dist load -v -m long tests/faults

check: .venv/.dev  ## format, lint, types, import contracts, docs up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

docs: .venv/.dev  ## write the pages that are made from the code: docs/plugins, docs/karez.schema.json
	$(BIN)/python docs/generate.py

bench: .venv/.dev  ## how fast it is, beside what the machine can do, in the same run
	$(BIN)/python bench/pipeline.py --paced
	$(BIN)/python bench/modbus.py
	$(BIN)/python bench/opcua.py
	$(BIN)/python bench/windows.py
	@echo 'What each fault costs, in 15 minutes: $(BIN)/python bench/faults.py'
	$(BIN)/python bench/tiro.py

cases-update: .venv/.dev  ## write what the converters make of tests/cases today; review the difference
	KAREZ_CASES_UPDATE=1 $(BIN)/python -m pytest -q tests/plugins/converter/test_cases.py

lock: .venv/.dev  ## choose the versions of all dependencies anew
	$(BIN)/pip install -q uv
	$(LOCK) --extra demo --group build -o requirements/demo.txt
	$(LOCK) --all-extras --group dev -c requirements/demo.txt -o requirements/dev.txt
	$(LOCK) --extra server --extra api --extra postgres --extra mysql --group build -c requirements/dev.txt -o requirements/data_connector.txt

LOCK := $(BIN)/uv pip compile pyproject.toml -q --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --upgrade

clean:  ## remove what was set up and what was collected
	rm -rf .venv .karez

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Karez needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.demo: requirements/demo.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/demo.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements/dev.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ .venv/.demo
