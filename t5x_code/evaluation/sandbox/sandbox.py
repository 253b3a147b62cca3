"""One sandbox as its owner sees it: a program in, an outcome out, whatever the program does."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

from t5x_code.errors import UserError
from t5x_code.evaluation.sandbox.inside.wire import Closed, Wire
from t5x_code.evaluation.sandbox.isolation import start_of
from t5x_code.evaluation.sandbox.limits import IsolationName, Limits
from t5x_code.evaluation.sandbox.runner_memory import hidden_memory

_START_SECONDS = 60
_GRACE_SECONDS = 30  # beyond the program's own wall time, for the zygote to sweep up
_MOST_OUTPUT = 1 << 16
_PIPE_HOLDS = 1 << 15  # half of what a pipe holds by default
_NONCE = "NONCE"  # where a command's tests take it
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class PythonProgram:
    """A Python program and what is asked of it, from another process."""

    source: str
    tests: str  # Python that raises when the program is wrong
    from_program: tuple[str, ...]  # names that the tests take from the program
    reference: str = ""  # a trusted program, for what else the tests need
    from_reference: tuple[str, ...] = ()  # names that they take from it


@dataclasses.dataclass(frozen=True)
class CommandProgram:
    """A program of another language, its tests behind it in the same file. It passes when it prints the nonce on a line
    of its own, which `NONCE` in the tests stands for, and ends with status 0."""

    source: str
    tests: str
    command: tuple[str, ...]  # its last part is the file's name


Program = PythonProgram | CommandProgram


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a program."""

    passed: bool
    result: str  # "passed", or why not


class Sandbox:
    """A zygote in its isolation; a context manager, for one thread. A zygote that was lost is started again."""

    def __init__(self, isolation: IsolationName, limits: Limits):
        """Starts it.

        Raises:
            UserError: the isolation does not work here.
        """
        self._isolation, self._limits, self._number = isolation, limits, next(_numbers) % 256
        self._process: subprocess.Popen | None = None
        self._folder: str | None = None
        self._hidden = contextlib.ExitStack()
        self._start()

    def run(self, program: Program) -> Outcome:
        """Runs a program to its end, one way or another.

        Raises:
            UserError: this process cannot open what it takes, or the isolation no longer works.
        """
        if self._process is None:
            self._start()
        try:
            failure, report = self._exchange(program)
        except (OSError, Closed):
            self.close()
            return Outcome(False, "the program ended its sandbox")
        if report["spoiled"]:
            self.close()
        return _outcome(failure, report)

    def close(self) -> None:
        """Ends the zygote and everything in it."""
        if self._process is not None:
            self._control.close()  # at which it leaves by itself
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder is not None:
            # Not by shutil: a program may nest folders deeper than Python's stack. Nor by subprocess, which opens files
            # itself: this process may have no more of them.
            silent = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
            os.waitpid(os.posix_spawnp("rm", ["rm", "-rf", self._folder], os.environ, file_actions=silent), 0)
            self._folder = None
        self._hidden.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        try:
            self._start_zygote()
        except BaseException:
            self.close()
            raise

    def _start_zygote(self) -> None:
        if self._isolation == "rlimits" and os.geteuid() != 0:
            self._hidden.enter_context(hidden_memory())
        start = _opened(start_of, self._isolation, self._limits, self._number)
        self._folder = start.folder
        self._control, theirs = _opened(socket.socketpair, socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pipes = {"stdin": theirs, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            self._process = _opened(subprocess.Popen, start.command, **pipes, env={}, cwd="/")
        finally:
            theirs.close()
        self._control.settimeout(_START_SECONDS)
        try:
            ready = self._control.recv(_MOST_OUTPUT)
        except OSError:
            ready = b""
        if not ready:
            self._process.kill()
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            raise UserError(f"the sandbox {self._isolation} does not start: {said[-1] if said else 'no answer'}")

    def _exchange(self, program: Program) -> tuple[str | None, dict[str, Any]]:
        """Hands the program over, and waits for its end.

        Returns:
            Why it failed its tests, empty where nobody said; None: it passed them. And the zygote's report.
        """
        is_python = isinstance(program, PythonProgram)
        nonce = secrets.token_hex(16)  # who says it has run the tests to their end
        read_source, write_source = _opened(os.pipe)
        try:
            ours, theirs = _opened(socket.socketpair)
        except UserError:
            os.close(read_source)
            os.close(write_source)
            raise
        request = {"kind": "python" if is_python else "command", "limits": dataclasses.asdict(self._limits)}
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], [read_source, theirs.fileno()])
        finally:
            os.close(read_source)
            theirs.close()
        deadline = self._limits.wall_seconds + _GRACE_SECONDS
        with ours:
            ours.settimeout(deadline)
            source = program.source if is_python else _command_task(program, nonce)
            with _feeding(write_source, source.encode("utf-8", "surrogatepass")):
                failure = _ask_tests(ours, program, nonce) if is_python else _read_output(ours, nonce)
        self._control.settimeout(deadline)
        data = self._control.recv(_MOST_OUTPUT)
        if not data:
            raise OSError("the zygote is gone")
        report = json.loads(data)
        if not is_python and report["status"]["last"] != 0:
            failure = f"status {report['status']['last']}"
        return failure, report


def _opened(make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `make` opens for this process itself: that it cannot is no program's failure."""
    try:
        return make(*arguments, **options)
    except OSError as error:
        advice = "; give fewer --workers, or raise ulimit -n" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
        raise UserError(f"a sandbox cannot be opened: {error}{advice}") from error


@contextlib.contextmanager
def _feeding(descriptor: int, data: bytes) -> Iterator[None]:
    """Writes into a pipe that may be closed or never read: by a thread, where the pipe does not hold it all."""

    def write() -> None:
        with contextlib.suppress(OSError), open(descriptor, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    if len(data) <= _PIPE_HOLDS:
        write()
        yield
        return
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield
    thread.join()  # the zygote has closed its end, or the program has read it


def _ask_tests(connection: socket.socket, program: PythonProgram, nonce: str) -> str | None:
    """Sends the tests to the process that runs them, and waits for its word: why they failed, None if they passed."""
    wire = Wire(connection, None, None)
    task = {
        "nonce": nonce,
        "tests": program.tests,
        "from_program": program.from_program,
        "reference": program.reference,
        "from_reference": program.from_reference,
    }
    try:
        wire.send(task)
        word, echoed, reason = wire.receive()
    except (Closed, ValueError):
        return ""
    if echoed != nonce:
        return "no verdict"
    return None if word == "passed" else str(reason)


def _read_output(connection: socket.socket, nonce: str) -> str | None:
    """Reads what a command prints, as much as anybody would: why its tests failed, None if they passed."""
    connection.shutdown(socket.SHUT_WR)
    printed = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(1 << 14):
            printed += part
            if len(printed) > _MOST_OUTPUT:
                return "too much output"
    return None if nonce.encode() in printed.split() else "the tests did not reach their end"


def _command_task(program: CommandProgram, nonce: str) -> str:
    text = program.source + program.tests.replace(_NONCE, nonce)
    return json.dumps({"files": {program.command[-1]: text}, "command": program.command})


def _outcome(failure: str | None, report: dict[str, Any]) -> Outcome:
    """What came of a program, from what `_exchange` gives."""
    if report["reason"] != "ended":
        return Outcome(False, f"stopped: {report['reason']}")
    if failure is None:
        return Outcome(True, "passed")
    return Outcome(False, f"failed: {failure or 'ended with status ' + str(report['status']['program'])}")
