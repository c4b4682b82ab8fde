#!/usr/bin/env bash
# Sets up if need be and runs every check: ruff, then all tests with the shapes in signatures checked. `--long` adds the tests marked long; other arguments go to pytest.
#   bash scripts/test.sh
#   bash scripts/test.sh --long
#   bash scripts/test.sh tests/models -k causal
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test

marks="not long"
if [ "${1:-}" = "--long" ]; then
  marks=""
  shift
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet . || { echo "error: run .venv/bin/ruff format ." >&2; exit 1; }

# Compiled programs are kept from run to run; XLA's expensive optimizations do not pay for shapes as small as the tests'.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.jax_cache}"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# The shapes and dtypes in the signatures of what computes are checked at every call (jaxtyping, beartype).
shapes="signvit_jax.layers,signvit_jax.backbones,signvit_jax.models,signvit_jax.decoding,signvit_jax.optimization.losses,beartype.beartype"
.venv/bin/python -m pytest -n "${TEST_WORKERS:-2}" --dist loadgroup --no-loadscope-reorder --jaxtyping-packages="$shapes" -m "$marks" "$@"
