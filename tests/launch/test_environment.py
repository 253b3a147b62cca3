"""launch/environment.sh: the code that runs is that of the checkout whose script was started."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkouts(tmp_path) -> list[Path]:
    """Two checkouts, as far as the script reads them."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        (folder / "launch").mkdir(parents=True)
        shutil.copy(ROOT / "launch/environment.sh", folder / "launch")
        (folder / "setup.py").touch()
    return folders


@pytest.fixture
def environment(tmp_path) -> Path:
    """A virtual environment whose python writes down from where it is called."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").write_text('#!/bin/sh\necho "$PWD: $*" >> "$VIRTUAL_ENV/calls"\n')
    (folder / "bin/python").chmod(0o755)
    return folder


def source(checkout: Path, environment: Path, extras: str = "data") -> tuple[str, list[str]]:
    """Sources the script with the environment active; what it said, and the calls of python."""
    variables = {**os.environ, "VIRTUAL_ENV": str(environment), "PATH": f"{environment}/bin:{os.environ['PATH']}"}
    command = ["bash", "-c", f"set -euo pipefail; source launch/environment.sh {extras}"]
    (environment / "calls").write_text("")
    ended = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, check=True)
    return ended.stdout, (environment / "calls").read_text().splitlines()


def test_installed_once(checkouts, environment):
    _, calls = source(checkouts[0], environment)
    assert (
        len(calls) == 1 and calls[0].startswith(f"{checkouts[0]}: -m pip install ") and calls[0].endswith(" -e .[data]")
    )
    assert source(checkouts[0], environment) == ("", [])
    _, calls = source(checkouts[0], environment, "data,test")
    assert len(calls) == 1


def test_another_checkout_takes_the_place_of_the_first_and_says_so(checkouts, environment):
    one, two = checkouts
    for extras in ("data", "data,test"):
        source(one, environment, extras)
    said, calls = source(two, environment)
    assert f"this checkout, {two}, takes the place of {one}" in said.splitlines()[0]
    assert len(calls) == 1 and calls[0].startswith(f"{two}: -m pip install ")
    said, calls = source(one, environment, "data,test")
    assert f"takes the place of {two}" in said and len(calls) == 1


def test_an_environment_of_unknown_code_is_not_trusted(checkouts, environment):
    (environment / "t5x_code.data.stamp").touch()
    said, calls = source(checkouts[0], environment)
    assert "takes the place of any other" in said and len(calls) == 1


def test_quickstart_answers_help_with_its_head():
    command = ["bash", "launch/quickstart.sh", "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and not ended.stderr
    assert ended.stdout.startswith("From nothing to a small model") and "set -euo" not in ended.stdout
