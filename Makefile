# Two commands on a fresh machine: `make demo`, `make test`. Everything is installed into .venv.
PYTHON ?= python3
PYTHON310 ?= python3.10
VENV   := .venv
BIN    := $(VENV)/bin
EXTRA  ?= cpu
TORCH_INDEX ?=
STAMP  := $(VENV)/.installed-$(EXTRA)
CORE   := not torch and not onnx and not slow and not gpu and not browser
LOWEST := $(VENV)/lowest
SBOM   := build/edgecnn.cdx.json

.PHONY: demo demo-light test test-slow test-gpu test-nvidia test-browser first-contact test-lowest quick faults fuzz bench docs sbom audit lint format clean

demo: $(STAMP)
	$(BIN)/edgecnn run lenet5-digits

# Without PyTorch: a stored graph and stored pictures to INT8 and its verdict.
demo-light:
	@echo "installing NumPy, ONNX and ONNX Runtime into $(VENV)/light: about 220 MB on the disk"
	$(PYTHON) -m venv $(VENV)/light
	$(VENV)/light/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[light]'
	cd examples/light && $(abspath $(VENV)/light/bin/edgecnn) run digits.toml --out ../../build/demo-light

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=30 --junitxml=build/junit.xml

quick: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "$(CORE)"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# Every file operation of the steps and of one command of each other kind fails once, and is the last one once; disks
# of 0.1 to 12 MB: docs/reliability.md.
faults: $(STAMP)
	$(BIN)/python -m pytest -m "slow or not slow" tests/artifact/test_pairs.py tests/acceptance/test_nothing_lost.py tests/acceptance/test_small_disks.py tests/acceptance/test_release.py --junitxml=build/faults.xml

# Every reader with damaged files, within two hours; goes on where it was stopped: docs/reliability.md.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(ARGS)

test-gpu: $(STAMP)
	EDGECNN_REQUIRE_GPU=$${EDGECNN_REQUIRE_GPU:-0} $(BIN)/python -m pytest -m gpu

# NVIDIA's own parser and builder, which need no GPU; pip fetches them once per machine.
test-nvidia: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "nvidia and not slow and not gpu"

# The HTML report in a headless Chromium.
test-browser: $(STAMP)
	$(BIN)/python -m pytest -m browser

# Every open question of docs/tensorrt.md, asked of an NVIDIA GPU in ten minutes: EXTRA=gpu, rtx or ort-rtx beside cpu.
first-contact: $(STAMP)
	$(BIN)/python -m benchmarks.first_contact $(ARGS)

# The oldest Python, and of each dependency the oldest version that pyproject.toml allows; all but PyTorch, whose wheels of
# that age bring CUDA.
test-lowest:
	$(PYTHON310) -m venv $(LOWEST)
	sed -n 's/^ *"\([a-z-]*\)\(\[.*\]\)\{0,1\}>=\([0-9.]*\).*/\1==\3/p' pyproject.toml | sort -u > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable . --group test-core \
	    onnx onnxruntime scikit-learn safetensors threadpoolctl
	$(LOWEST)/bin/python -m pytest -q -n 2 -m "$(CORE)"
	$(LOWEST)/bin/python -m pytest -q -n 2 -m "onnx and not torch and not slow and not gpu and not nvidia" tests/backends tests/cli

# Beside other tools and plain loops, into benchmarks/results and the documents' tables; BENCH=--short takes a quarter of an hour.
bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py $(BENCH)

# The reference pages and JSON Schemas, from the command line, the recipe and the results.
docs: $(STAMP)
	$(BIN)/python docs/generate.py

# What is installed in .venv, as CycloneDX JSON.
sbom: $(STAMP)
	mkdir -p $(dir $(SBOM))
	sed "s/^dynamic = .*/version = \"$$($(BIN)/python -c 'from edgecnn.version import __version__; print(__version__)')\"/" \
	    pyproject.toml > $(SBOM).toml
	$(BIN)/python -m cyclonedx_py environment --pyproject $(SBOM).toml --output-file $(SBOM) $(ARGS) $(BIN)/python

# Known vulnerabilities of what is installed in .venv; exit code 2 where an index could not be asked: SECURITY.md.
audit: $(STAMP)
	$(BIN)/python .ci/audit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@echo "installing '.[$(EXTRA)]' into $(VENV): about 6 GB on the disk where PyTorch brings CUDA; TORCH_INDEX=URL names another index of PyTorch"
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --index-url '$(TORCH_INDEX)' torch torchvision)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA)]' --group dev
	touch $@
