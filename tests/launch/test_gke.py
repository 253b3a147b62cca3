"""launch/gke/submit.sh: what it would submit is a JobSet that says what the command line says."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--name=run1", "--image=registry/t5x_code", "--type=v5p", "--topology=4x4x4"]
RECIPE = ["--gin_file=gin/codegen2_7b.gin", "--gin.MODEL_DIR='gs://bucket/a run'"]


def submit(*flags: str) -> subprocess.CompletedProcess:
    command = ["bash", "launch/gke/submit.sh", *flags, "--dry_run", "--", *RECIPE]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_manifest():
    ended = submit(*FLAGS, "--slices=2")
    assert ended.returncode == 0, ended.stderr
    jobset = yaml.safe_load(ended.stdout)
    assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "run1")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["parallelism"], job["completions"]) == (2, 16, 16)  # 64 chips, 4 a host
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
    }
    (container,) = pod["containers"]
    assert container["command"] == ["python", "launch/train.py", "--exit_code_when_stopped=75", *RECIPE]
    assert container["image"] == "registry/t5x_code"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2] and rule["action"] == "FailJob"


def test_a_slice_smaller_than_a_host_asks_for_no_more_than_it_has():
    ended = submit(*FLAGS, "--type=v5e", "--topology=1x1")
    assert ended.returncode == 0, ended.stderr
    job = yaml.safe_load(ended.stdout)["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["resources"] == {name: {"google.com/tpu": 1} for name in ("requests", "limits")}
    assert job["parallelism"] == 1


def test_help_is_the_head_of_the_script():
    ended = submit("--help")
    assert ended.returncode == 0 and not ended.stderr
    assert ended.stdout.startswith("Trains on TPU slices of a GKE cluster") and "set -euo" not in ended.stdout


def test_through_xpk():
    ended = submit(*FLAGS, "--xpk", "--cluster=c")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("xpk workload create --workload=run1 --cluster=c --tpu-type=v5p-128 --num-slices=1 ")
    restarts = set(range(127, 256)) | {42}  # XPK's own; with any other code it gives the whole workload up
    (codes,) = re.findall(r"--restart-on-exit-codes=(\S+)", ended.stdout.replace("\\", ""))
    for part in codes.split(","):
        first, _, last = part.partition("-")
        restarts |= set(range(int(first), int(last or first) + 1))
    assert restarts == set(range(1, 256)) - {2}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (FLAGS[1:], "--name is needed"),
        ([*FLAGS, "--type=v9"], "choose v4, v5e, v5p or v6e"),
        ([*FLAGS, "--topology=4"], "write 4x4x4 or 4x4"),
        ([*FLAGS, "--topology=0x4"], "write 4x4x4 or 4x4"),
        ([*FLAGS, "--topology=3x3"], "9 chips, which do not fill hosts of 4"),
        ([*FLAGS, "--xpk"], "--cluster is needed"),
    ],
)
def test_mistakes_get_one_line(flags, says):
    ended = submit(*flags)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2 and line.startswith("error: ") and says in line
