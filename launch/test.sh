#!/usr/bin/env bash
# Sets up a virtual environment (unless one is active) and runs the tests: bash launch/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh data,eval,test
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
ruff check .
ruff format --check .
python -m pytest "$@"
