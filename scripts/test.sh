#!/usr/bin/env bash
# Sets up the environment and runs all checks: ruff, codespell, pyright, then the tests, with the
# shapes in signatures checked. `--long` adds the tests marked long, `--long-slice` a part of them
# that depends on the commit (about three minutes); other arguments go to pytest.
#   bash scripts/test.sh
#   bash scripts/test.sh --long-slice
#   bash scripts/test.sh --long
#   bash scripts/test.sh tests/models -k causal
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test

tests=(-m "not long")
case "${1:-}" in
  --long)
    tests=(-m "")
    shift
    ;;
  --long-slice)
    tests=("--long-slice=$(git rev-parse --short=12 HEAD 2>/dev/null || date +%F)")
    shift
    ;;
esac
.venv/bin/ruff check .
if ! .venv/bin/ruff format --check --quiet .; then
  echo "error: run .venv/bin/ruff format ." >&2
  exit 1
fi

.venv/bin/codespell
.venv/bin/pyright --pythonpath .venv/bin/python

# Compiled programs are kept between runs.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.jax_cache}"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# Modules whose signatures are checked for shapes and dtypes at every call (jaxtyping, beartype).
shapes="signvit_jax.layers,signvit_jax.backbones,signvit_jax.models,signvit_jax.decoding"
shapes="$shapes,signvit_jax.optimization.losses,beartype.beartype"
.venv/bin/python -m pytest -n "${TEST_WORKERS:-2}" --dist loadgroup --no-loadscope-reorder \
  --jaxtyping-packages="$shapes" "${tests[@]}" "$@"
