# The two commands are `make up` and `make test`; both prepare the machine themselves.
# What needs no work is skipped by time stamps in .venv and by cargo.

PYTHON := .venv/bin/python
MATURIN := .venv/bin/maturin
# Suites in the order in which they run; a directory tests/NAME is a suite when it is named here. The last one, on lab
# hosts (make/fleet.mk), takes about a quarter of an hour, and is left out where they cannot run.
SUITES := unit conformance clients frameworks simulation cluster deploy fleet
NODES ?= 3
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help up down status test lint dev docs release debug bench bench-node bench-proxy rust-tests clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: release ## Build FastCache and start a small cluster here (NODES=3, ARGS="--node-port 7001")
	@.venv/bin/fastcache up --nodes $(NODES) $(ARGS)
	@echo "The same on hosts: 'make fleet' makes some on this machine (as root); for hosts of your own see docs/fleet.md."

down: ## Stop the cluster that `make up` started
	@if [ -x .venv/bin/fastcache ]; then .venv/bin/fastcache down; fi

status: ## Show how the cluster is
	@.venv/bin/fastcache status

test: lint rust-tests $(SUITES:%=test-%) test-conformance-fleet ## Judge the code and run every test
	@echo "==> All checks and tests passed."

lint: dev-tools debug ## Judge style, types and layers, in Rust and in Python
	@echo "==> Rust: form and lints"
	@cargo fmt --all --check
	@cargo clippy --quiet --workspace --all-targets -- -D warnings
	@echo "==> Python: form, lints, types, layers"
	@.venv/bin/ruff format --quiet --check . || { .venv/bin/ruff format --diff .; exit 1; }
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/lint-imports > .venv/layers.log 2>&1 || { cat .venv/layers.log; exit 1; }

rust-tests: rust-toolchain
	@echo "==> Tests of the Rust core"
	@cargo test --quiet -p fastcache-core

test-%: dev-tools debug ## Run one suite: test-unit, test-conformance, test-cluster ...
	@if [ -d tests/$* ]; then echo "==> Tests: $*"; $(PYTHON) -m pytest -q tests/$* $(ARGS); fi

dev: dev-tools debug ## Prepare everything for work on the code
	@echo "Ready: .venv/bin/python, .venv/bin/pytest, .venv/bin/fastcache (a debug build)."

docs: debug ## Write the pages that come out of the code
	@$(PYTHON) tools/document_commands.py

bench: release dev-tools ## Run every benchmark, peers beside us in the same run
	@$(PYTHON) -m bench $(ARGS)

bench-node: release dev-tools ## The node beside redis-server and valkey-server
	@$(PYTHON) -m bench.node $(ARGS)

bench-proxy: release dev-tools ## The proxy beside nutcracker, and the path through HAProxy
	@$(PYTHON) -m bench.proxy $(ARGS)

clean: down ## Remove what was built; a running cluster is stopped first
	@rm -rf .venv target dist fastcache/_core*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

include make/*.mk

# --- preparation ------------------------------------------------------------------------------------

.PHONY: rust-toolchain system-up system-test dev-tools

rust-toolchain:
	@tools/prepare.sh rust

system-up:
	@tools/prepare.sh system up

system-test:
	@tools/prepare.sh system test

# The environment with what running needs: FastCache's own dependencies and the build tool.
.venv/.stamp-up: pyproject.toml tools/prepare.sh | system-up
	@echo "==> Preparing .venv"
	@[ -x $(PYTHON) ] && $(PYTHON) -c pass 2>/dev/null || "$$(tools/prepare.sh python)" -m venv --clear .venv
	@$(PYTHON) tools/dependencies.py > .venv/dependencies.txt
	@$(PYTHON) -m pip install --quiet -r .venv/dependencies.txt
	@touch $@

dev-tools: .venv/.stamp-test | system-test
.venv/.stamp-test: requirements.txt .venv/.stamp-up
	@echo "==> Installing requirements.txt into .venv"
	@$(PYTHON) -m pip install --quiet -r requirements.txt
	@touch $@

# The first build also registers the package in .venv; later ones only replace the compiled core.
define build
	@[ -e .venv/.stamp-installed ] || echo "==> Building the core ($(1)); the first time takes a minute or two"
	@if [ -t 2 ]; then exec 3>&2; else exec 3>.venv/build.log; fi; \
	$(MATURIN) develop $(2) $$([ -e .venv/.stamp-installed ] && echo --skip-install) >&3 2>&3 \
		|| { [ -t 2 ] || cat .venv/build.log; exit 1; }
	@touch .venv/.stamp-installed
endef

release: .venv/.stamp-up | rust-toolchain system-up
	$(call build,release,--release)

debug: .venv/.stamp-up | rust-toolchain system-up
	$(call build,debug)
