#!/usr/bin/env bash
# Sets up a virtual environment (unless one is active) and runs the tests: bash launch/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh data,eval,languages,test
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# The programs are tiny: compiling them well takes longer than running them, and many are compiled in several tests.
export JAX_DISABLE_MOST_OPTIMIZATIONS="${JAX_DISABLE_MOST_OPTIMIZATIONS:-1}"
for flag in --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1; do
  # A jaxlib that does not know a flag ends at its first device.
  if XLA_FLAGS="${XLA_FLAGS:-} $flag" python -c 'import jax; jax.devices()' > /dev/null 2>&1; then
    export XLA_FLAGS="${XLA_FLAGS:-} $flag"
  fi
done
if [ -z "${JAX_COMPILATION_CACHE_DIR:-}" ]; then
  JAX_COMPILATION_CACHE_DIR="$(mktemp -d)"
  trap 'rm -rf "$JAX_COMPILATION_CACHE_DIR"' EXIT
  export JAX_COMPILATION_CACHE_DIR JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1
fi
ruff check .
ruff format --check .
python -m pytest --numprocesses=2 --dist=loadfile "$@"
