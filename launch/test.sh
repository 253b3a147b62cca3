#!/usr/bin/env bash
# Sets up a virtual environment (unless one is active) and runs the tests: bash launch/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh data,eval,languages,test
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# The programs are tiny: compiling them well takes longer than running them.
export JAX_DISABLE_MOST_OPTIMIZATIONS="${JAX_DISABLE_MOST_OPTIMIZATIONS:-1}"
for flag in --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1; do
  # A jaxlib that does not know a flag ends at its first device.
  if XLA_FLAGS="${XLA_FLAGS:-} $flag" python -c 'import jax; jax.devices()' > /dev/null 2>&1; then
    export XLA_FLAGS="${XLA_FLAGS:-} $flag"
  fi
done
ruff check .
ruff format --check .
python -m pytest --numprocesses=2 --dist=loadfile "$@"
