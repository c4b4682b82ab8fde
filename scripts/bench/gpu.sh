#!/usr/bin/env bash
# Measures on the GPU of this machine what matters most, the most telling rows first; a row's result is in the file as soon as it is there.
#   bash scripts/bench/gpu.sh                                                   numerics, reference, dense_vit: four minutes
#   bash scripts/bench/gpu.sh --rows=encode,small_gpu,torch,torch_compiled      a second call
#   JAX_PLATFORMS=cpu bash scripts/bench/gpu.sh --size=tiny                     that it runs at all, on a CPU
# Needs Python 3.12 with jax, flax, optax, orbax and chex (torch for its rows); what else it imports comes from build/gpu_wheels,
# which gpu_wheels.sh fills on a machine with network. Reads no data set. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
wheels=${GPU_WHEELS:-build/gpu_wheels}
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
if [ -d "$wheels" ]; then
  # Only what is missing: a newer version of a package that is there already stays in use.
  for wheel in "$wheels"/*.whl; do
    module=$(basename "$wheel" | cut -d- -f1)
    "$python" -c "import ${module/absl_py/absl}" 2>/dev/null ||
      "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$packages" "$wheel"
  done
fi
PYTHONPATH="$PWD:$packages${PYTHONPATH:+:$PYTHONPATH}" "$python" scripts/bench/gpu.py "$@"
