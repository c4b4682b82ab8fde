#!/usr/bin/env bash
# Creates .venv in this repository, with the package and the given extras ("" or "test"), unless it
# is up to date.
# Sourced by the other scripts:  source scripts/setup.sh test
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.12 python3.13 python3 python; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.12 or newer is needed and was not found; install it, or give its path:" \
    "PYTHON=/path/to/python3.12 bash $0" >&2
  return 2
}

extras=${1:-}
target=".${extras:+[$extras]}"
# The stamp file records what was installed; any change installs again.
wanted="$target $(cat pyproject.toml constraints.txt | cksum)"
if [ ! -f .venv/.installed ] || ! grep -qxF "$wanted" .venv/.installed; then
  started=$SECONDS
  [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
  echo "installing signvit-jax${extras:+ with $extras} into .venv ..."
  # Python compiles each module when it is first imported; to compile all of them now takes longer.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
    --constraint constraints.txt --editable "$target"
  if [ "$extras" = test ]; then
    # jax2onnx requires an older Orbax than ours, but does not use it.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --constraint constraints.txt --no-deps jax2onnx
  fi
  echo "$wanted" >>.venv/.installed
  echo "installed in $((SECONDS - started)) s"
fi
