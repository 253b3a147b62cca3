#!/usr/bin/env bash
# From nothing to a small model that completes and infills Python: sets up, trains the quickstart recipe, shows samples.
#
#   bash launch/quickstart.sh            continue the run in runs/quickstart (the first time: start it)
#   bash launch/quickstart.sh --fresh    throw that run away and start over
#   bash launch/quickstart.sh --small    a fifth of the steps, in runs/quickstart_small
set -euo pipefail
cd "$(dirname "$0")/.."
model_dir=runs/quickstart
fresh=false
overrides=()
for argument in "$@"; do
  case "$argument" in
    --fresh) fresh=true ;;
    --help|-h) sed -nE '2,/^[^#]/s/^#( |$)//p' launch/quickstart.sh; exit 0 ;;
    --small)
      model_dir=runs/quickstart_small
      overrides+=(--gin.TRAIN_STEPS=30 --gin.DECAY_STEPS=30 --gin.WARMUP_STEPS=5 --gin.EVAL_PERIOD=30 --gin.CHECKPOINT_PERIOD=15) ;;
    *) echo "error: unknown argument $argument (known: --fresh, --small)" >&2; exit 2 ;;
  esac
done
source launch/environment.sh data
if $fresh; then rm -rf "$model_dir"; fi
python launch/train.py --gin_file=gin/quickstart.gin --gin.MODEL_DIR="'$model_dir'" ${overrides[@]+"${overrides[@]}"}
echo
python launch/show_run.py --model_dir="$model_dir"
python launch/show_samples.py --model_dir="$model_dir"
echo "The run lies in $model_dir; sample from it with"
[[ "$VIRTUAL_ENV" != "$(pwd -P)/.venv" ]] || echo "  source .venv/bin/activate"
echo "  python launch/generate.py --model_dir=$model_dir --prompt='def '"
