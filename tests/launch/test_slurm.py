"""launch/slurm.sbatch under a real Slurm: one node that this test starts, two tasks, CPU devices."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def outside_a_job(folder: Path, *arguments: str, code: int = 0, **job: str) -> subprocess.CompletedProcess:
    """The script as in what is said of a job, with an srun that ends with a code; its scontrol tells of its call."""
    for name, line in (("srun", f"exit {code}"), ("scontrol", "echo requeued >&2")):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"PATH": f"{folder}:{environment['PATH']}"} | job
    command = ["bash", "launch/slurm.sbatch", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_dry_run_prints_the_command(tmp_path, place):
    arguments = ["--gin_file=x", "--gin.MODEL_DIR='/a b'"]
    arguments.insert(place, "--dry_run")
    ended = outside_a_job(tmp_path, *arguments, code=1)
    assert ended.returncode == 0
    assert ended.stdout.strip() == (
        r"srun --kill-on-bad-exit=0 --wait=300 python launch/train.py --exit_code_when_stopped=75 --gin_file=x "
        r"--gin.MODEL_DIR=\'/a\ b\'"
    )


def test_outside_a_job_nothing_is_queued_again(tmp_path):
    ended = outside_a_job(tmp_path, "--gin_file=x", code=3)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 3 and "nothing is queued again" in line
    for code in (0, 2):
        ended = outside_a_job(tmp_path, "--gin_file=x", code=code)
        assert ended.returncode == code and not ended.stderr


def test_what_fails_at_once_again_and_again_is_not_queued_for_ever(tmp_path):
    def ends(code: int) -> list[str]:
        ended = outside_a_job(tmp_path, "--gin_file=x", code=code, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(tmp_path))
        assert ended.returncode == code
        return ended.stderr.splitlines()

    for code in (1, 75, 127):
        assert ends(code) == [f"ended with {code}: queued again", "requeued"]
    (line,) = ends(1)
    assert "four times in a row, last with 1: not queued again" in line
    for code in (1, 0, 1):  # what is done, or submitted again, begins anew
        assert ("requeued" in ends(code)) == bool(code)
    assert (tmp_path / "slurm-7.early").read_text() == "1\n"


def test_help_is_the_head_of_the_script(tmp_path):
    ended = outside_a_job(tmp_path, "--help")
    assert ended.returncode == 0 and not ended.stderr
    assert ended.stdout.startswith("Trains on GPU nodes under Slurm") and "SBATCH" not in ended.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def slurm(tmp_path):
    """A cluster of this machine alone; the environment that its commands need."""
    if getpass.getuser() != "root" or not all(map(shutil.which, DAEMONS)):
        pytest.skip(f"needs root and the programs {', '.join(DAEMONS)} (Debian: slurm-wlm munge)")
    # Sockets have short names.
    folder = Path("/run") / f"slurm_test_{os.getpid()}"
    folder.mkdir(mode=0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host = socket.gethostname().split(".")[0]
    configuration = folder / "slurm.conf"
    ports = (free_port(), free_port())
    configuration.write_text(CONFIGURATION.format(host=host, folder=folder, ports=ports, cpus=os.cpu_count()))
    files = [
        f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")
    ]
    commands = [
        ["munged", "--force", "--foreground", f"--key-file={key}", *files],
        ["slurmctld", "-D", "-f", str(configuration), "-L", str(folder / "ctld.log")],
        ["slurmd", "-D", "-f", str(configuration), "-L", str(folder / "slurmd.log")],
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    daemons = []
    try:
        for command in commands:
            daemons.append(subprocess.Popen(command, **quiet))
            time.sleep(1)
        yield {**os.environ, "SLURM_CONF": str(configuration)}
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def submit(slurm: dict[str, str], folder: Path, *settings: str) -> tuple[int, str]:
    """Runs a job of two tasks to its end; its exit code and its log."""
    corpus, log = folder / "corpus", folder / "log"
    shutil.copytree(Path(os.__file__).parent / "json", corpus)
    environment = {**slurm, "JAX_PLATFORMS": "cpu", "T5X_CODE_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    options = ["--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={log}", "--wait"]
    settings = (f"MIXTURE='text_files:{corpus}'", f"MODEL_DIR='{folder}/run'", *settings)
    recipe = ["--gin_file=gin/quickstart.gin", "--gin_file=gin/models/tiny.gin", *(f"--gin.{s}" for s in settings)]
    ended = subprocess.run(
        ["sbatch", *options, "launch/slurm.sbatch", *recipe],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return ended.returncode, ended.stdout + ended.stderr + (log.read_text() if log.exists() else "")


@pytest.mark.slow
def test_bad_input_is_not_queued_again(slurm, tmp_path):
    """Whichever task says so first."""
    code, said = submit(slurm, tmp_path, "OptimizerConfig.name='adamwx'")
    assert code == 2 and said.count("error: OptimizerConfig.name is 'adamwx'") == 2, said
    assert "queued again" not in said


@pytest.mark.slow
def test_two_tasks_train_as_one_run(slurm, tmp_path):
    code, said = submit(slurm, tmp_path, "TRAIN_STEPS=3", "LOG_PERIOD=1")
    assert code == 0, said
    assert "2 cpu devices in 2 processes" in said and said.count("step 3/3") == 1
    assert (tmp_path / "run/checkpoints/3").is_dir()
