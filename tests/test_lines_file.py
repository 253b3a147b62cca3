"""Lines come in order and once; a file that has to be written anew is not for each of them."""

import pytest

from t5x_code import lines_file
from t5x_code.lines_file import REWRITE_SHARE, LinesFile

SECONDS = 2.0  # that a rewrite takes


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets; writing the file anew takes its time."""
    now = [100.0]
    monkeypatch.setattr(lines_file.time, "monotonic", lambda: now[0])
    return now


def test_a_disk_has_each_line_at_once(tmp_path):
    file = LinesFile(tmp_path / "lines", ["a", "b"], appends=True)
    for line in "cd":
        file.append(line)
        assert (tmp_path / "lines").read_text().split()[-1] == line
    assert (tmp_path / "lines").read_text() == "a\nb\nc\nd\n"


def test_a_bucket_has_it_when_the_last_rewrite_is_paid_for_or_when_asked(tmp_path, clock, monkeypatch):
    path, replace = tmp_path / "lines", type(tmp_path).replace
    written = []

    def slow(temporary, target):
        written.append(temporary.read_text().split())
        clock[0] += SECONDS
        return replace(temporary, target)

    monkeypatch.setattr(type(tmp_path), "replace", slow)
    file = LinesFile(path, ["0"], appends=False)
    for line in range(1, 1001):
        clock[0] += 1.0
        file.append(str(line))
    file.flush()
    assert path.read_text().split() == written[-1] == [str(line) for line in range(1001)]
    assert len(written) <= 2 + 1000 * REWRITE_SHARE / SECONDS
    file.flush()
    assert len(written) <= 2 + 1000 * REWRITE_SHARE / SECONDS


def test_quick_rewrites_wait_for_nothing(tmp_path, clock):
    file = LinesFile(tmp_path / "lines", [], appends=False)
    for line in range(3):
        clock[0] += 1e-9
        file.append(str(line))
        assert (tmp_path / "lines").read_text().split()[-1] == str(line)
