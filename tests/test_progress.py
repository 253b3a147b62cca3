"""Progress bars: they move on a terminal, and are few lines in a log."""

import io
import sys

import pytest

from t5x_code import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch, stream: io.StringIO, **options) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress_bar(**options) as bar:
        for _ in range(3):
            bar.update()
            bar.refresh()
    return stream.getvalue()


def test_a_log_gets_lines_and_a_terminal_a_bar_that_moves(monkeypatch):
    log = printed(monkeypatch, io.StringIO(), total=3, unit="program")
    assert "\r" not in log and log.endswith("\n") and "\n\n" not in log
    assert "3/3 [" in log.splitlines()[-1] and " program/s]" in log.splitlines()[-1]
    assert "\r" in printed(monkeypatch, Terminal(), total=3, unit="program")


def test_a_log_gets_a_line_each_half_minute(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(progress.progress_bar(range(2000), unit="row")) == list(range(2000))
    assert len(log.getvalue().splitlines()) == 2  # the first and the last


def test_of_slow_work_the_seconds_of_one_are_said(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bar = progress.progress_bar(total=2, unit="prompt")
    assert bar.format_meter(2, 2, 9.0, unit=bar.unit).endswith(" 4.50s/prompt]")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_units_stand_apart_and_bytes_are_scaled(monkeypatch, stream):
    assert "0 program [" in printed(monkeypatch, stream, unit="program")
    assert "5.00M/5.00M" in printed(monkeypatch, stream, unit="B", total=5_000_000, initial=5_000_000 - 3)
    assert printed(monkeypatch, io.StringIO(), unit="row", shown=False) == ""
