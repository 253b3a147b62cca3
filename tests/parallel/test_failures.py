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
            if str(jax.process_index()) in argv[1]:
                try:
                    exec(f"raise {argv[2]}", {"__name__": "gcsfs.core"})
                except OSError as error:
                    raise UserError("the folder cannot be written") from error
            time.sleep(90)

    command_line.run(main)
"""
AWAY, DEFECT = "TimeoutError", "KeyError('x')"


@pytest.mark.parametrize(
    ("failing", "error", "code"),
    [
        pytest.param("0", "OSError", 2, marks=pytest.mark.slow),
        ("1", "OSError", 2),
        pytest.param("01", "OSError", 2, marks=pytest.mark.slow),
        ("1", AWAY, 75),
        pytest.param("0", DEFECT, 75, marks=pytest.mark.slow),
    ],
)
def test_an_error_in_one_ends_all(failing, error, code):
    """All with one code: launchers start none of them again where one says that its input is bad."""
    began = time.monotonic()
    ended = run_two(PROGRAM, failing, error)
    assert time.monotonic() - began < 60
    assert [process.returncode for process in ended] == [code, code], ended
    for index, process in zip("01", ended, strict=True):
        told = f"process {failing} ({socket.gethostname()}): "
        (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
        said = {AWAY: "gs:// cannot be reached: TimeoutError", DEFECT: "KeyError: 'x'"}.get(error)
        again = "; run the same command again" if code == 75 and index in failing else ""
        assert line == f"error: {'' if index in failing else told}{said or 'the folder cannot be written'}{again}"
        assert ("Traceback" in process.stderr) == (error == DEFECT and index in failing)
