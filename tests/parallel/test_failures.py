"""Two real processes, of which one cannot go on while the other waits for it: both end, and say why."""

import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from t5x_code.parallel.hosts import PROCESS_VARIABLES

PROGRAM = """
    import sys, time
    import jax
    from t5x_code.errors import UserError
    from t5x_code.parallel.failures import FailureWatch
    from t5x_code.parallel.hosts import HostsConfig, start_processes
    from t5x_code.recipes import command_line

    def main(argv):
        start_processes(HostsConfig(heartbeat_seconds=100))
        with FailureWatch():
            if str(jax.process_index()) in argv[1:]:
                raise UserError("the disk is full")
            time.sleep(90)

    command_line.run(main)
"""


@pytest.mark.parametrize("failing", ["0", "1", "01"])
def test_an_error_in_one_ends_all(failing):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *failing]
    processes = []
    for index in "01":
        own = dict(zip(PROCESS_VARIABLES, (address, "2", index), strict=True))
        environment = {**os.environ, **own, "JAX_PLATFORMS": "cpu"}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    began = time.monotonic()
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert time.monotonic() - began < 60
    assert [process.returncode for process in processes] == [2, 2], said
    for index, text in zip("01", said, strict=True):
        told = f"process {failing} ({socket.gethostname()}): "
        (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
        assert line == f"error: {'' if index in failing else told}the disk is full"
