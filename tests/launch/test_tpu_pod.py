"""launch/tpu_pod.sh against a gcloud that records what it is asked and fails on demand."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ["--gin_file=gin/codegen2_7b.gin", "--gin.MODEL_DIR='gs://bucket/a run'"]


@pytest.fixture
def pod(tmp_path):
    """A function that runs the script with given troubles and exit codes; returns how it ended and gcloud's calls."""
    tools, home, state = (tmp_path / name for name in ("bin", "home", "state"))
    for folder in (tools, home, state):
        folder.mkdir()
    fake = Path(__file__).with_name("fake_gcloud.py")
    (tools / "gcloud").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {fake} "$@"\n')
    (tools / "gcloud").chmod(0o755)

    def run(*flags: str, trouble: str = "", codes: str = "0", recipe=RECIPE):
        (state / "trouble").write_text(trouble.replace(" ", "\n"))
        (state / "codes").write_text("".join(f"{code}\n" for code in codes.split()))
        own = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": str(home),
            "FAKE_STATE": str(state),
            "POLL_SECONDS": "0",
        }
        command = ["bash", str(ROOT / "launch/tpu_pod.sh"), "--name=run1", "--zone=z", "--type=v5p-128", *flags]
        ended = subprocess.run(
            [*command, "--", *recipe] if recipe else command,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = (state / "calls").read_text().splitlines() if (state / "calls").exists() else []
        return ended, [call.removeprefix("compute tpus tpu-vm ").split()[0] for call in calls], calls

    run.home = home
    return run


def test_creates_installs_runs_and_ends(pod):
    ended, verbs, calls = pod("--spot", "--project=p")
    assert ended.returncode == 0, ended.stderr
    assert verbs == ["describe", "create", "scp", "ssh", "ssh", "ssh"]
    assert "--accelerator-type=v5p-128" in calls[1] and "--spot" in calls[1]
    assert all("--zone=z --project=p" in call for call in calls)
    assert "--worker=all" in calls[4] and "--worker=0" in calls[5]
    assert "step 1 of a fake run" in ended.stdout
    assert (pod.home / "arguments").read_text().splitlines() == [
        "launch/train.py",
        "--exit_code_when_stopped=75",
        *RECIPE,
    ]
    assert (pod.home / "t5x_code/launch/train.py").exists()  # this checkout, unpacked
    assert ">=3.11,<3.14" in (pod.home / "uv_arguments").read_text().splitlines()


def test_a_slice_that_is_there_is_taken(pod):
    pod()
    ended, verbs, _ = pod()
    assert ended.returncode == 0 and verbs.count("create") == 1 and "taking the slice" in ended.stderr


def test_a_slice_that_is_there_though_it_was_not_described_is_taken(pod):
    pod()
    ended, verbs, _ = pod(trouble="away")
    assert ended.returncode == 0 and verbs[-5:] == ["create", "scp", "ssh", "ssh", "ssh"], ended.stderr
    assert "there after all" in ended.stderr


def test_what_runs_on_a_slice_that_is_there_is_ended_first(pod):
    pod()
    earlier = subprocess.Popen(["sleep", "100"], start_new_session=True)
    (pod.home / "t5x_code/pid").write_text(f"{earlier.pid}\n")
    try:
        ended, _, _ = pod()
        assert ended.returncode == 0, ended.stderr
        assert earlier.wait(timeout=5) == -signal.SIGKILL
    finally:
        earlier.kill()


def test_preempted_is_made_again_and_started_again(pod):
    ended, verbs, _ = pod(trouble="preempt", codes="0 0")
    assert ended.returncode == 0, ended.stderr
    assert verbs.count("create") == 2 and verbs.count("delete") == 1 and verbs.count("scp") == 2
    assert "is PREEMPTED" in ended.stderr


def test_a_dropped_connection_is_taken_up_again(pod):
    ended, verbs, _ = pod(trouble="drop drop")
    assert ended.returncode == 0 and verbs.count("create") == 1 and verbs.count("scp") == 1
    assert ended.stderr.count("the connection dropped") == 2
    assert (pod.home / "arguments").read_text().count("train.py") == 1  # it ran on all the while


def test_a_run_that_died_without_a_word_is_started_again(pod):
    """As after a reboot of worker 0: its slice is ready, nothing runs there, and no exit code was left."""
    ended, verbs, _ = pod(trouble="reboot", codes="0 0")
    assert ended.returncode == 0 and verbs.count("create") == 1 and verbs.count("scp") == 2, ended.stderr
    assert "ended with 137: starting again" in ended.stderr


def test_a_slice_that_cannot_be_prepared_ends_with_one_line(pod):
    ended, verbs, _ = pod(trouble="install install install")
    assert ended.returncode == 2 and verbs.count("scp") == 3 and verbs.count("create") == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "run1 is ready but could not be prepared, 3 times in a row" in line and ended.stderr.endswith(f"{line}\n")


def test_slices_that_are_lost_while_they_are_prepared_are_made_again(pod):
    ended, verbs, _ = pod(trouble="install install lost install install lost")
    assert ended.returncode == 0, ended.stderr
    assert verbs.count("scp") == 7 and verbs.count("create") == 3


@pytest.mark.parametrize(
    ("flags", "version"),
    [
        (["--type=v5p-128"], "v2-alpha-tpuv5"),
        (["--type=v5litepod-16"], "v2-alpha-tpuv5-lite"),
        (["--type=v6e-64"], "v2-alpha-tpuv6e"),
        (["--type=v4-512"], "tpu-ubuntu2204-base"),
        (["--type=v5p-128", "--version=other"], "other"),
    ],
)
def test_the_software_fits_the_type(pod, flags, version):
    ended, _, _ = pod(*flags, "--dry_run")
    assert f"--version={version} " in ended.stdout.replace("\n", " \n")


def test_help_is_the_head_of_the_script(pod):
    ended, verbs, _ = pod("--help")
    assert ended.returncode == 0 and not verbs and not ended.stderr
    assert ended.stdout.startswith("Trains on a Cloud TPU slice") and "set -euo" not in ended.stdout


def test_no_quota_ends_with_one_line(pod):
    ended, verbs, _ = pod(trouble="quota")
    assert ended.returncode == 2 and verbs == ["describe", "create"]
    assert ended.stderr.splitlines()[-1].startswith("error: (gcloud) Quota limit")


def test_no_capacity_waits(pod):
    ended, verbs, _ = pod(trouble="capacity capacity")
    assert ended.returncode == 0 and verbs.count("create") == 3 and "no slice yet" in ended.stderr


@pytest.mark.parametrize(("codes", "code", "starts"), [("134 75 0", 0, 3), ("2", 2, 1)])
def test_starts_again_on_any_code_but_bad_input(pod, codes, code, starts):
    ended, _, _ = pod(codes=codes)
    assert ended.returncode == code, ended.stderr
    assert (pod.home / "arguments").read_text().count("train.py") == starts


def test_gives_up_at_last(pod):
    ended, _, _ = pod("--max_restarts=1", codes="1 1 1")
    assert ended.returncode == 75 and "gave up after 1" in ended.stderr


def test_a_dry_run_calls_nothing(pod):
    ended, verbs, _ = pod("--dry_run")
    assert ended.returncode == 0 and not verbs
    lines = ended.stdout.splitlines()
    assert [line.split()[4] for line in lines if line.startswith("gcloud")] == [
        "describe", "create", "scp", "ssh", "ssh", "ssh",
    ]  # fmt: skip


@pytest.mark.parametrize(("flags", "recipe"), [(["--tpye=v4-8"], RECIPE), ([], [])])
def test_mistakes_get_one_line(pod, flags, recipe):
    ended, verbs, _ = pod(*flags, recipe=recipe)
    assert ended.returncode == 2 and not verbs
    assert ended.stderr.startswith("error: ") and len(ended.stderr.splitlines()) == 1
