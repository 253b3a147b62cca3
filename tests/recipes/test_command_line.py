"""What keeps a machine from a bucket for good is said in one line; what may pass, such as a server that is away, ends
with another code, by which launchers start the run again."""

import re

import pytest

from t5x_code.recipes.command_line import why_no_bucket


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


@pytest.mark.parametrize(
    "error", [AnsweredError(503, "try again"), OSError("disk"), ImportError("No module named 'x'"), ValueError("x")]
)
def test_other_errors_are_left_alone(error):
    assert why_no_bucket(error) is None
