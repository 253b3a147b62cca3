"""TensorFlow is imported without its notes, and with what matters."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("seqio")
USED = "import t5x_code.data.tasks, tensorflow as tf; print(sum(tf.data.Dataset.range(3).as_numpy_iterator()))"
NO_IMPORT = """
import os
from t5x_code.data.quiet_tensorflow import quiet_tensorflow
with quiet_tensorflow():
    os.write(2, b"I0000 00:00:1.2 3 port.cc:153] oneDNN is on\\n" b"E0000 00:00:1.2 3 x.cc:1] broken\\n")
    raise ImportError("no TensorFlow")
"""


def errors_of(code: str, **environment: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    ended = subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True)
    return ended.returncode, ended.stderr


@pytest.mark.slow
def test_nothing_is_printed_by_imports_and_the_first_operation():
    assert errors_of(USED) == (0, "")


def test_what_is_no_note_is_shown_also_where_the_import_fails():
    code, err = errors_of(NO_IMPORT)
    assert code and err.startswith("E0000 00:00:1.2 3 x.cc:1] broken\nTraceback") and "no TensorFlow" in err


def test_a_level_that_is_set_is_kept():
    _, err = errors_of(NO_IMPORT, TF_CPP_MIN_LOG_LEVEL="0")
    assert "oneDNN is on" in err and "broken" in err
