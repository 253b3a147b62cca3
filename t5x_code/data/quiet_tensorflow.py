"""TensorFlow, imported without the lines on oneDNN, CPU features and missing GPUs that it prints on the way."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
SET_BY_JAX = "1"
NOTES = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|I\d{4} |To enable the following instructions"
)


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Around imports of TensorFlow: its notes are dropped; what else is printed follows once they are over.

    A person who sets TF_CPP_MIN_LOG_LEVEL, as to 0, is shown all that it asks for.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if os.environ.get(LOG_LEVEL, SET_BY_JAX) != SET_BY_JAX or "tensorflow" in sys.modules:
        yield
        return
    os.environ[LOG_LEVEL] = "3"
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)  # the notes of the import itself heed no level
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            printed.seek(0)
            for line in printed:
                if not NOTES.match(line):
                    os.write(2, line)
