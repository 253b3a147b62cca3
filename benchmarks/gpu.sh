#!/usr/bin/env bash
# One NVIDIA GPU, measured in under 8 minutes: kernels against the reference, attention, the 1B step beside Hugging Face.
#
#   bash benchmarks/gpu.sh OUTPUT_FOLDER [FOLDER_OF_WHEELS]
#
# Needs jax with CUDA (0.10 to 0.12), flax, optax, orbax-checkpoint, absl-py, torch, transformers and pytest; no
# TensorFlow and no network. The wheels, where given, are installed into OUTPUT_FOLDER's parent: tokamax and what it
# lacks. Every part has its own time limit and its own log; a part that fails does not stop the next.
set -uo pipefail
[[ -n "${1:-}" ]] || { echo "error: write bash benchmarks/gpu.sh OUTPUT_FOLDER [FOLDER_OF_WHEELS]" >&2; exit 2; }
output=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
wheels=${2:+$(cd "$2" && pwd)} || exit 2
cd "$(dirname "$0")/.."
if [[ -n "$wheels" ]]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$output/../site" "$wheels"/*.whl
    export PYTHONPATH="$output/../site:${PYTHONPATH:-}"
fi
export PYTHONPATH="$PWD:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 XLA_CLIENT_MEM_FRACTION=0.92
unset XLA_PYTHON_CLIENT_MEM_FRACTION

part() { # NAME SECONDS COMMAND..
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    timeout --kill-after=5 "$limit" "$@" >"$output/$name.log" 2>&1
    status=$?
    echo "== $name: exit $status, $((SECONDS - start)) s"
    tail -n 25 "$output/$name.log"
    return $status
}

# Which way to multiply is fastest is found once for all parts.
mkdir -p "$output/autotune"
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_per_fusion_autotune_cache_dir=$output/autotune"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
step="python3 benchmarks/train_step.py --size=1b --dtype=bfloat16"
# The same rows as Hugging Face's: each token sees all before it. Then packed documents, and prefixes in them.
part step 280 $step --remat=none --turns=1 --turn_seconds=190 --attention=cudnn_causal --output="$output/train_step.json" ||
    part step_peer_recomputes 150 $step --remat=full --turn=transformers
part kernels 90 python3 -m pytest -q -rs -p no:cacheprovider -k on_the_device tests/models/attention/test_cudnn.py \
    tests/models/attention/test_tokamax.py
part step_packed 100 $step --remat=none --steps=10 --turn=ours --attention=tokamax_causal --profile="$output/profile"
part step_prefixes 90 $step --remat=none --steps=5 --turn=ours --attention=tokamax
part attention 60 python3 benchmarks/attention.py --dtype=bfloat16 --batch_size=8 --num_heads=16 --head_dim=128 \
    --lengths=2048 --rounds=20 --output="$output/attention.json"
part step_7b 60 python3 benchmarks/train_step.py --size=7b --dtype=bfloat16 --turn=ours --attention=cudnn_causal
rm -rf "$output/autotune"
# The gaps between kernels, the largest first, lie in the trace; it opens in Perfetto.
find "$output/profile" -name '*.trace.json.gz' -exec mv {} "$output/trace.json.gz" \; 2>/dev/null
[[ ! -f "$output/trace.json.gz" ]] || rm -rf "$output/profile"
