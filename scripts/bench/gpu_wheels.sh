#!/usr/bin/env bash
# Downloads the wheels that gpu.sh needs on a machine with only jax, flax, optax, orbax and chex.
#   bash scripts/bench/gpu_wheels.sh [FOLDER]                       # default: build/gpu_wheels
# They are small and pure Python: the same files serve every platform. gpu.sh installs them without
# network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=${1:-build/gpu_wheels}
mkdir -p "$folder"
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps \
  --only-binary=:all: --implementation=py --abi=none --platform=any \
  --constraint constraints.txt --dest "$folder" ml_collections jaxtyping wadler_lindig absl-py
tree=$(git ls-files -z | xargs -0 du --apparent-size --bytes -c | tail -n 1 | cut -f1)
wheels=$(du --apparent-size --bytes -s "$folder" | cut -f1)
total=$(((tree + wheels + 1048575) / 1048576))
echo "$(ls "$folder" | wc -l) wheels in $folder; with the repository's files $total MiB"
if [ "$total" -ge 60 ]; then
  echo "error: the repository and the wheels are $total MiB; allowed: less than 60" >&2
  exit 1
fi
