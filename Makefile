# Two commands for a newcomer: `make run` and `make test`. They need Python 3.11+ with pip, nothing else.
PYTHON       ?= python3
VENV         ?= .venv
EXTRAS       ?= dev
TEST_ARGS    ?=
FUZZ_SECONDS ?= 300
SOAK_SECONDS ?= 1800
BENCH_ARGS   ?=
DEMO_ARGS    ?=
INTEROP_ARGS ?=
, := ,
BIN          := $(VENV)/bin
INSTALLED    := $(VENV)/.installed-$(subst $(,),-,$(EXTRAS))
PYTEST       := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help run test setup lint types test-unit test-bench fuzz soak bench bench-smoke bench-masque bench-peers bench-peers-smoke bench-turn bench-ghostwire bench-workers demo demo-mesh docs interop package clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

run: setup ## start the relay in dev mode
	$(BIN)/ghostctl relay run --dev --state-dir state

test: setup ## run the tests (about nine minutes)
	$(PYTEST) -n 2 --dist loadgroup -m "not bench_smoke" $(TEST_ARGS)

setup: $(INSTALLED) ## make the virtual environment

$(INSTALLED): pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint .ci/constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

lint: setup ## format, lint, layers, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/deptry masque_relay fallbacks

types: setup ## mypy strict and basedpyright strict
	$(BIN)/mypy
	$(BIN)/basedpyright

test-unit: setup ## unit and property tests only
	$(PYTEST) -q tests/unit tests/property

fuzz: setup ## feed mutated bytes to every decoder (FUZZ_SECONDS=300)
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

soak: setup ## tunnels under faults for a long time (SOAK_SECONDS=1800)
	$(BIN)/python -m tests.soak --seconds $(SOAK_SECONDS)

test-bench: setup ## every benchmark's short run: shows that it works, no figures to quote
	$(PYTEST) tests/bench -m bench_smoke $(TEST_ARGS)

bench: setup ## measure the relay beside a naive one
	$(BIN)/ghostctl bench

bench-smoke: setup ## the same in ten seconds: shows that it works, no figures to quote
	$(BIN)/ghostctl bench --smoke

bench-masque: setup ## TCP and idle tunnels over HTTP/3, 2 and 1.1 (BENCH_ARGS=--smoke)
	$(BIN)/python -m tests.bench.masque --json build/bench-masque.json $(BENCH_ARGS)

bench-workers: setup ## the CPU of a datagram with one worker and with two
	$(BIN)/python -m tests.bench.workers --json build/bench-workers.json $(BENCH_ARGS)

bench-peers: setup ## compare with other relays (BENCH_ARGS=--rounds 5)
	mkdir -p build
	$(BIN)/python -m tests.bench.peers --json build/bench-peers.json --plot build/bench-peers.svg $(BENCH_ARGS)

bench-peers-smoke: ## the same in a minute: shows that it works
	$(MAKE) --no-print-directory bench-peers BENCH_ARGS=--smoke

accelerator: setup ## compile the optional accelerator (needs Rust; the relay works without)
	$(BIN)/python -m masque_relay.quic.accelerator.build

bench-turn: setup ## compare TURN with coturn (BENCH_ARGS=--smoke)
	$(BIN)/python -m tests.bench.turn --json build/bench-turn.json $(BENCH_ARGS)

interop: setup ## run the foreign peers and write the matrix anew (INTEROP_ARGS=--check)
	$(BIN)/python -m interop.runner $(INTEROP_ARGS)

bench-ghostwire: setup ## the mesh peer to peer, by each carrier (BENCH_ARGS=--smoke)
	$(BIN)/python -m tests.bench.ghostwire --json build/bench-ghostwire.json $(BENCH_ARGS)

demo: setup ## a relay and a client here, with traffic through them
	$(BIN)/ghostctl demo

demo-mesh: setup ## two peers behind NATs while UDP is blocked (root; DEMO_ARGS=--short)
	$(BIN)/python -m tests.demos $(DEMO_ARGS)

docs: setup ## write the generated reference pages anew
	$(BIN)/python -m masque_relay.cli.reference >docs/reference/cli.md
	$(BIN)/ghostctl relay config-reference >docs/reference/config.md
	$(BIN)/python -m masque_relay.control.metrics >docs/reference/metrics.md
	$(BIN)/python -m tests.conformance >docs/reference/conformance.md

package: setup ## build the wheel and try it in an empty environment
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build/try;  $(PYTHON) -m venv build/try
	build/try/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint .ci/constraints.txt dist/ghostwire_relay-*.whl
	build/try/bin/ghostctl --version

clean: ## remove everything that make made
	rm -rf .venv .venv-3.* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
