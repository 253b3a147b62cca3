"""A run that hangs shows where, then ends with the code that launchers start again on; one that works is left alone."""

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
    import threading, time
    from t5x_code.training.watchdog import FIRST_TIMES, Watchdog

    def waits_for_ever():
        threading.Event().wait()
"""


def run(source: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(source)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_hang_is_shown_and_ended():
    ended = run("""
        with Watchdog(minutes=0.5 / 60) as watchdog:
            watchdog.sign_of_life()
            waits_for_ever()
    """)
    assert ended.returncode == 75
    first, *_, last = ended.stderr.splitlines()
    assert first.startswith("watchdog: no sign of life for 0.00833333 minutes; every thread's stack:")
    assert "in waits_for_ever" in ended.stderr
    assert last == "watchdog: no sign of life for 0.0166667 minutes: ending; run the same command again"


@pytest.mark.parametrize("slow_step", [0.0, 1.5], ids=["quick", "one slow step"])
def test_a_run_that_goes_on_is_left_alone(slow_step):
    ended = run(f"""
        with Watchdog(minutes=1 / 60) as watchdog:
            for _ in range(20):
                time.sleep(0.02)
                watchdog.sign_of_life()
            time.sleep({slow_step})
            watchdog.sign_of_life()
            time.sleep(0.1)
    """)
    assert ended.returncode == 0
    assert ("in _watch" in ended.stderr) == bool(slow_step)


def test_the_first_step_has_longer_but_not_for_ever():
    ended = run("""
        began = time.monotonic()
        print(FIRST_TIMES)
        with Watchdog(minutes=0.5 / 60):
            waits_for_ever()
    """)
    assert ended.returncode == 75
    assert ended.stderr.startswith(f"watchdog: no sign of life for {int(ended.stdout) * 0.5 / 60:g} minutes; every")


def test_a_watchdog_that_is_not_wanted_waits_as_long_as_can_be():
    ended = run("""
        with Watchdog(minutes=1e12) as watchdog:
            time.sleep(0.2)
            print(watchdog._thread.is_alive())
    """)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


def test_a_pause_is_not_silence_and_what_follows_it_is():
    ended = run("""
        with Watchdog(minutes=0.8 / 60) as watchdog:  # a busy machine may let a process wait for half a second
            watchdog.sign_of_life()
            with watchdog.paused():
                time.sleep(2.5)
            print("went on", flush=True)
            waits_for_ever()
    """)
    assert ended.returncode == 75 and ended.stdout == "went on\n"
    assert ended.stderr.count("no sign of life") == 2  # both after the pause
