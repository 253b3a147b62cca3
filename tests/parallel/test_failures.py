"""Two real processes, of which one cannot go on while the other waits for it: both end, and say why."""

import socket
import time

import pytest
from two_processes import run_two

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
    began = time.monotonic()
    ended = run_two(PROGRAM, *failing)
    assert time.monotonic() - began < 60
    assert [process.returncode for process in ended] == [2, 2], ended
    for index, process in zip("01", ended, strict=True):
        told = f"process {failing} ({socket.gethostname()}): "
        (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
        assert line == f"error: {'' if index in failing else told}the disk is full"
