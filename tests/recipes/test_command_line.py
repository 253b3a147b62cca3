"""What keeps a machine from a bucket for good is said in one line; what may pass, such as a server that is away, ends
with another code, by which launchers start the run again. Ctrl-C ends at once."""

import importlib.util
import os
import re
import socket
import subprocess
import sys

import pytest

from t5x_code.buckets import why_no_bucket


class AnsweredError(Exception):
    """As gcsfs raises it."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImportError("Please install gcsfs to access Google Storage"), r"pip install 't5x_code\[gcp\]'"),
        (AnsweredError(401, "Invalid Credentials, 401"), "refuses .* application-default login"),
        (AnsweredError(400, "Required parameter: project, 400"), "is its name right"),
        (OSError("Forbidden: b/someone/o/x\nno access"), "Forbidden: b/someone/o/x no access"),
    ],
)
def test_no_way_into_a_bucket(error, says):
    assert re.search(says, why_no_bucket(error))


def run_main(body: str, **variables: str) -> subprocess.CompletedProcess:
    """`command_line.run` of a function of this body, in a process of its own."""
    code = "import sys\nfrom t5x_code.recipes import command_line\ndef main(argv):\n"
    code += "".join(f"    {line}\n" for line in body.splitlines()) + "command_line.run(main)\n"
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


READ = """from etils import epath
import gcsfs.retry
gcsfs.retry.min = lambda *seconds: 0  # between its tries
"""
PLAINLY = "epath.Path('gs://bucket/x').exists()"
AS_A_FILE = """from t5x_code.errors import UserError
try:
    epath.Path('gs://bucket/x').exists()
except OSError as error:
    raise UserError('cannot read x') from error
"""


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is None, reason="gcsfs is not installed (extra gcp or test)")
@pytest.mark.parametrize("body", [PLAINLY, AS_A_FILE], ids=["plainly", "as a file"])
def test_a_bucket_that_cannot_be_reached_ends_with_one_line_and_75(body):
    with socket.socket() as probe:  # a port that nothing answers on
        probe.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{probe.getsockname()[1]}"
        without_proxy = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
        ended = run_main(
            READ + body, STORAGE_EMULATOR_HOST=server, GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false", **without_proxy
        )
    assert ended.returncode == 75 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: gs:// cannot be reached: Cannot connect to host 127.0.0.1")
    assert ended.stderr.endswith("; run the same command again\n")


def test_an_error_of_the_network_that_is_of_no_bucket_is_left_alone():
    ended = run_main("raise ConnectionError('the other end is gone')")
    assert ended.returncode == 1 and "Traceback" in ended.stderr and "gs://" not in ended.stderr


def test_ctrl_c_ends_at_once_with_what_was_printed():
    ended = run_main("import atexit\natexit.register(print, 'torn down')\nprint('a sample')\nraise KeyboardInterrupt")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "a sample\n", "")


@pytest.mark.parametrize(
    "error", [AnsweredError(503, "try again"), OSError("disk"), ImportError("No module named 'x'"), ValueError("x")]
)
def test_other_errors_are_left_alone(error):
    assert why_no_bucket(error) is None
