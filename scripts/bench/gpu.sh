#!/usr/bin/env bash
# Benchmarks on this machine's GPU, the most important rows first; each result is written at once.
#   bash scripts/bench/gpu.sh                          # numerics, reference, dense_vit: 4 minutes
#   bash scripts/bench/gpu.sh --rows=encode,translate,small_gpu,torch,torch_compiled   # a second call
#   bash scripts/bench/gpu.sh --merge      # the results into docs/benchmarks/gpu.md, anywhere
#   JAX_PLATFORMS=cpu bash scripts/bench/gpu.sh --size=tiny         # a check that it runs, on a CPU
# Needs Python 3.12 with jax, flax, optax, orbax and chex (torch for its rows). Other imports come
# from build/gpu_wheels, which gpu_wheels.sh fills on a machine with network. Reads no data set.
# PYTHON chooses another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
wheels=${GPU_WHEELS:-build/gpu_wheels}
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
if [ -d "$wheels" ]; then
  # Only missing packages: an installed newer version stays in use.
  for wheel in "$wheels"/*.whl; do
    module=$(basename "$wheel" | cut -d- -f1)
    "$python" -c "import ${module/absl_py/absl}" 2>/dev/null ||
      "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        --no-compile --target "$packages" "$wheel"
  done
fi
PYTHONPATH="$PWD:$packages${PYTHONPATH:+:$PYTHONPATH}" "$python" scripts/bench/gpu.py "$@"
