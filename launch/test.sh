#!/usr/bin/env bash
# Sets up a virtual environment (unless one is active) and runs the tests: bash launch/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh data,eval,languages,test
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# The programs are tiny: compiling them well takes longer than running them.
export JAX_DISABLE_MOST_OPTIMIZATIONS="${JAX_DISABLE_MOST_OPTIMIZATIONS:-1}"
ruff check .
ruff format --check .
python -m pytest --numprocesses=2 --dist=loadfile "$@"
