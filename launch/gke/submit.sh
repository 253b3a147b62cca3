#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, as a JobSet through kubectl, or with --xpk through XPK.
#
#   bash launch/gke/submit.sh --name=run1 --image=REGISTRY/t5x_code --type=v5p --topology=4x4x4 [--slices=2] [--dry_run]
#       [--xpk --cluster=CLUSTER] -- --gin_file=gin/codegen2_7b.gin
#       --gin.DATA="'gs://bucket/stores'" --gin.MODEL_DIR="'gs://bucket/codegen2_7b'"
#
# What follows -- goes to launch/train.py. The image is made by launch/gke/Dockerfile. Needs kubectl (with the JobSet
# controller in the cluster) or xpk. A slice's processes find each other by what GKE tells them.
set -euo pipefail
cd "$(dirname "$0")/../.."

name="" image="" type="" topology="" slices=1 dry_run="" xpk="" cluster=""
while [ $# -gt 0 ]; do
  case "$1" in
    --name=*|--image=*|--type=*|--topology=*|--slices=*|--cluster=*) key="${1%%=*}"; declare "${key#--}=${1#*=}" ;;
    --dry_run) dry_run=yes ;;
    --xpk) xpk=yes ;;
    --help|-h) sed -nE '2,/^[^#]/s/^#( |$)//p' launch/gke/submit.sh; exit 0 ;;
    --) shift; break ;;
    *) echo "error: unknown argument $1; see launch/gke/submit.sh --help" >&2; exit 2 ;;
  esac
  shift
done
for needed in name image type topology ${xpk:+cluster}; do
  [ -n "${!needed}" ] || { echo "error: --$needed is needed; see launch/gke/submit.sh --help" >&2; exit 2; }
done
[ $# -gt 0 ] || { echo "error: no arguments for train.py: write them after --" >&2; exit 2; }
case "$type" in  # GKE's name, chips of a full host
  v4) accelerator=tpu-v4-podslice chips=4 cores=2 ;;
  v5e) accelerator=tpu-v5-lite-podslice chips=4 cores=1 ;;
  v5p) accelerator=tpu-v5p-slice chips=4 cores=2 ;;
  v6e) accelerator=tpu-v6e-slice chips=4 cores=1 ;;
  *) echo "error: --type=$type: choose v4, v5e, v5p or v6e" >&2; exit 2 ;;
esac
size='[1-9][0-9]*'
[[ "$topology" =~ ^$size(x$size){1,2}$ ]] || { echo "error: --topology=$topology: write 4x4x4 or 4x4" >&2; exit 2; }
total=$(( ${topology//x/*} ))
if (( total % chips && chips % total )); then
  echo "error: --topology=$topology has $total chips, which do not fill hosts of $chips; choose one that GKE offers" >&2
  exit 2
fi
chips=$(( total < chips ? total : chips ))
hosts=$(( total / chips ))

if [ -n "$xpk" ]; then
  declare -A xpk_type=([v4]=v4 [v5e]=v5litepod [v5p]=v5p [v6e]=v6e)
  # By itself XPK starts again on 42 and 127 to 255 alone, and gives up on any other code, as it is to on 2: bad input.
  command=(xpk workload create "--workload=$name" "--cluster=$cluster" "--tpu-type=${xpk_type[$type]}-$(( total * cores ))"
    "--num-slices=$slices" "--docker-image=$image" --max-restarts=1000 --restart-on-exit-codes=1,3-126
    "--command=cd /t5x_code && python launch/train.py --exit_code_when_stopped=75 $(printf '%q ' "$@")")
  if [ -n "$dry_run" ]; then printf '%q ' "${command[@]}"; echo; else "${command[@]}"; fi
  exit
fi
manifest="$(python3 - "$@" << PYTHON
import json, pathlib, re, sys
values = {"NAME": "$name", "SLICES": "$slices", "HOSTS": "$hosts", "ACCELERATOR": "$accelerator", "IMAGE": "$image",
          "TOPOLOGY": "$topology", "CHIPS": "$chips", "COMMAND": json.dumps(["python", "launch/train.py", "--exit_code_when_stopped=75", *sys.argv[1:]])}
text = pathlib.Path("launch/gke/jobset.yaml").read_text()
print(re.sub(r"(?<=: )(" + "|".join(values) + r")(?=[}\n])", lambda match: values[match.group()], text), end="")
PYTHON
)"
if [ -n "$dry_run" ]; then echo "$manifest"; else kubectl apply -f - <<< "$manifest"; fi
