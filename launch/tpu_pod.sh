#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates the TPU VM or takes the one that is there, copies this checkout, installs it, runs
# the command on all workers, follows worker 0's log, and starts again when a worker is lost or the slice is preempted.
#
#   bash launch/tpu_pod.sh --name=run1 --zone=us-east5-a --type=v5p-128 [--version=v2-alpha-tpuv5] [--spot]
#       [--project=PROJECT] [--max_restarts=1000] [--dry_run] -- --gin_file=gin/codegen2_7b.gin
#       --gin.DATA="'gs://bucket/stores'" --gin.MODEL_DIR="'gs://bucket/codegen2_7b'"
#
# What follows -- goes to launch/train.py. MODEL_DIR must be a bucket, as a preempted slice's disks are gone. Needs gcloud,
# logged in. Without --version the slice has the software that Google names for its type. Ends with 0 when training is
# done, 2 when the input is bad or a slice cannot be prepared (a restart would not help). The slice is left running:
# delete it with gcloud compute tpus tpu-vm delete.
set -euo pipefail
cd "$(dirname "$0")/.."

name="" zone="" type="" version="" project="" spot="" max_restarts=1000 dry_run=""
poll_seconds="${POLL_SECONDS:-30}"
while [ $# -gt 0 ]; do
  case "$1" in
    --name=*|--zone=*|--type=*|--version=*|--project=*|--max_restarts=*) key="${1%%=*}"; declare "${key#--}=${1#*=}" ;;
    --spot) spot="--spot" ;;
    --dry_run) dry_run=yes ;;
    --help|-h) sed -nE '2,/^[^#]/s/^#( |$)//p' launch/tpu_pod.sh; exit 0 ;;
    --) shift; break ;;
    *) echo "error: unknown argument $1; see launch/tpu_pod.sh --help" >&2; exit 2 ;;
  esac
  shift
done
for needed in name zone type; do
  [ -n "${!needed}" ] || { echo "error: --$needed is needed; see launch/tpu_pod.sh --help" >&2; exit 2; }
done
[ $# -gt 0 ] || { echo "error: no arguments for train.py: write them after --" >&2; exit 2; }
if [ -z "$version" ]; then
  case "$type" in
    v5p-*) version=v2-alpha-tpuv5 ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
fi

say() { echo "tpu_pod: $*" >&2; }
tpu() {
  local command=(gcloud compute tpus tpu-vm "$@" "--zone=$zone" ${project:+"--project=$project"})
  if [ -n "$dry_run" ]; then printf '%q ' "${command[@]}"; echo; else "${command[@]}"; fi
}
on() { tpu ssh "$name" "--worker=$1" "--command=$2"; }
slice_state() { tpu describe "$name" "--format=value(state)" 2> /dev/null || true; }

# Every worker runs it detached, so that a dropped connection does not end it; its exit code is left in a file.
run="echo \$\$ > pid; ~/venv/bin/python launch/train.py --exit_code_when_stopped=75 $(printf '%q ' "$@")>> ~/run.log 2>&1; echo \$? > exit_code"
# What an earlier start left running is ended before its pid goes with the folder: it holds the chips.
# The images' Python is older than we need: uv takes one that fits, or fetches it. Some images have pip, but no venv.
install='{ [ ! -f ~/t5x_code/pid ] || kill -9 -- -$(cat ~/t5x_code/pid) 2> /dev/null || true; } && '\
'rm -rf ~/t5x_code && mkdir ~/t5x_code && cd ~/t5x_code && tar -xzf ~/t5x_code.tar.gz && '\
'{ [ -x ~/uv/bin/uv ] || python3 -m pip install -q --target ~/uv uv || '\
'{ python3 -m venv ~/uv && ~/uv/bin/pip install -q uv; }; } && '\
'~/uv/bin/uv venv -q --seed --allow-existing --python ">=3.11,<3.14" ~/venv && ~/venv/bin/pip install -q ".[tpu,gcp]"'
start='cd ~/t5x_code && rm -f pid exit_code; '\
"setsid nohup bash -c $(printf '%q' "$run") > /dev/null 2>&1 < /dev/null & until [ -f pid ]; do sleep 0.1; done"
follow='cd ~/t5x_code && tail -n 20 -s 0.2 -F --pid="$(cat pid)" ~/run.log; '\
'if [ -f exit_code ]; then echo "exit code $(cat exit_code)"; elif ! kill -0 "$(cat pid)" 2> /dev/null; then echo "exit code 137"; fi'

create() {
  local output
  until output="$(tpu create "$name" "--accelerator-type=$type" "--version=$version" $spot 2>&1)"; do
    case "$output" in
      *ALREADY_EXISTS*) say "$name is there after all"; return ;;
      *[Qq]uota*|*PERMISSION_DENIED*|*INVALID_ARGUMENT*|*NOT_FOUND*) echo "error: ${output##*ERROR: }" >&2; exit 2 ;;
      *) say "no slice yet (${output:0:200}); trying again in $poll_seconds s"; sleep "$poll_seconds" ;;
    esac
  done
  [ -z "$dry_run" ] || echo "$output"
}

have_slice() {  # returns when the slice is ready, with this checkout installed
  local state
  state="$(slice_state)"
  if [ -n "$dry_run" ]; then echo "$state"; state=""; fi
  case "$state" in
    READY) say "taking the slice $name that is there" ;;
    "") say "creating $name, a $type"; create ;;
    CREATING|STARTING|RESTARTING|REPAIRING) say "$name is $state"; sleep "$poll_seconds"; have_slice; return ;;
    *) say "$name is $state: deleting it and creating it again"; tpu delete "$name" --quiet; create ;;
  esac
  tpu scp "$archive" "$name:t5x_code.tar.gz" --worker=all && on all "$install"
}

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
archive="$folder/t5x_code.tar.gz"
git ls-files -z --cached --others --exclude-standard | tar -czf "$archive" --null -T -

if [ -n "$dry_run" ]; then have_slice; on all "$start"; on 0 "$follow"; exit 0; fi
failures=0
for (( restarts = 0; restarts <= max_restarts; restarts++ )); do
  if ! have_slice; then
    # What fails again and again on a slice that is there would fail for as long as the slice is paid for.
    if [ "$(slice_state)" = READY ]; then failures=$(( failures + 1 )); else failures=0; fi
    if [ "$failures" -ge 3 ]; then
      echo "error: $name is ready but could not be prepared, $failures times in a row; the messages above say why." \
        "Mend it and run the same command again, or delete the slice: it is still running" >&2
      exit 2
    fi
    say "the slice could not be prepared; trying again in $poll_seconds s"
    sleep "$poll_seconds"
    continue
  fi
  failures=0
  on all "$start" || { say "the run could not be started; trying again"; sleep "$poll_seconds"; continue; }
  while true; do
    on 0 "$follow" | tee "$folder/log" || true
    code="$(sed -n 's/^exit code \([0-9]*\)$/\1/p' "$folder/log" | tail -n 1)"
    [ -z "$code" ] || break
    state="$(slice_state)"
    if [ "$state" != READY ]; then say "$name is ${state:-gone}"; code=preempted; break; fi
    say "the connection dropped, the slice is there: following again"
    sleep "$poll_seconds"
  done
  case "$code" in
    0) say "done"; exit 0 ;;
    2) say "train.py refused its input: not starting again"; exit 2 ;;
    *) say "ended with $code: starting again from the newest checkpoint" ;;
  esac
done
say "gave up after $max_restarts restarts"
exit 75
