"""Runs code on eight virtual CPU devices, in a process of its own: the device count is fixed when JAX starts."""

import os
import subprocess
import sys
import textwrap

import pytest

PRELUDE = "import jax; jax.config.update('jax_num_cpu_devices', 8)\n"


@pytest.fixture
def run_on_eight_devices():
    """A function that runs Python source with 8 CPU devices and returns what it printed."""

    def run(source: str) -> str:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", PRELUDE + textwrap.dedent(source)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert result.returncode == 0, result.stderr[-4000:]
        assert "Involuntary full rematerialization" not in result.stderr, result.stderr[-4000:]
        return result.stdout.strip()

    return run
