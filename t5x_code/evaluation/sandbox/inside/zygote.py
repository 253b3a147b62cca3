"""A clean interpreter that forks two processes per program, watches what they use, and sweeps up after them.

It never reads a program or its tests: it hands their file descriptors on, so that nothing lies in its memory that a
program, whose process begins as a copy of it, could find there.
"""

import contextlib
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from t5x_code.evaluation.sandbox.inside import candidate, confine, landlock, processes, seccomp, tests

CONTROL = 0  # file descriptor of the socket to the runner
_POLL_SECONDS = 0.05
_MOST_REQUEST = 1 << 16


def main(settings: dict[str, Any]) -> None:
    """Serves until the runner closes its end."""
    control = socket.socket(fileno=os.dup(CONTROL))
    others = processes.Others(settings["user"])
    if settings["isolation"] == "rlimits":
        settings = settings | {"rules": _rules(settings), "filter": _filter(settings)}
        _try_to_shut_in(settings)
    _load_what_programs_use()
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"ready": True}).encode())
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, _MOST_REQUEST, 2)
        if not data:
            return
        request = json.loads(data)
        report = _run(request, settings, descriptors, control, others)
        control.send(json.dumps(report).encode())
        if report["spoiled"]:
            return


def _run(
    request: dict[str, Any],
    settings: dict[str, Any],
    descriptors: list[int],
    control: socket.socket,
    others: processes.Others,
) -> dict[str, Any]:
    """One program, from its fork to the last trace of it."""
    limits, folders = request["limits"], settings["folders"]
    source, channel = descriptors
    started = time.monotonic()
    if request["kind"] == "python":
        theirs, ours = socket.socketpair()
        program = _fork(settings, limits, [source, theirs.fileno()], _be_program)
        last = _fork(settings, limits, [channel, ours.fileno()], _be_tests)
        theirs.close()
        ours.close()
    else:
        program = last = _fork(settings, limits, [source, channel], _be_command)
    os.close(source)
    os.close(channel)
    reason = _watch(last, limits, folders[0], control, others, started)
    ended = others.kill() | _reap()
    status = {"program": ended.get(program, 0), "last": ended.get(last, 0)}
    spoiled = not (others.are_gone() and all(map(_empty, folders)))
    if settings["user"] is not None:
        spoiled |= not processes.remove_strays(settings["user"], folders[0])
    return {
        "reason": reason,
        "status": status,
        "spoiled": spoiled,
    }


def _fork(settings: dict[str, Any], limits: dict[str, Any], descriptors: list[int], be: Callable[[], None]) -> int:
    """A bounded child that has these descriptors, as 3 and 4, and no other; it never returns."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        if settings["isolation"] == "rlimits" and be is not _be_tests:  # which runs nothing of the program's
            _shut_in(settings)
        kept = [os.dup(descriptor) for descriptor in descriptors]
        nothing = os.open(os.devnull, os.O_RDWR)
        for target in range(3):
            os.dup2(nothing, target)
        first_free = max(*kept, nothing) + 1
        copies = [os.dup2(kept[index], first_free + index) for index in range(2)]
        for target, copy in enumerate(copies, 3):
            os.dup2(copy, target)
        os.closerange(5, 1 << 16)
        os.chdir(settings["folders"][0])
        os.umask(0o077)
        if settings["user"] is not None:
            confine.become(settings["user"])
            processes.hide_memory()
        _bound(limits, counts_others=settings["isolation"] == "rlimits" and settings["user"] is None)
        gc.enable()
        be()
        status = 0
    finally:
        os._exit(status)


def _rules(settings: dict[str, Any]) -> int | None:
    """Landlock's rules for the programs, where the kernel has it."""
    if not settings["landlock"]:
        return None
    # What root's programs leave in shared memory is theirs by its user, and removed; without root it would stay.
    shared = ["/dev/shm"] if settings["user"] is not None and os.path.isdir("/dev/shm") else []
    devices = [f"/dev/{name}" for name in confine.DEVICES]
    return landlock.rules_of(settings["landlock"], [*settings["folders"], *shared], devices)


def _filter(settings: dict[str, Any]) -> seccomp.Filter:
    """Filters the system calls of this process; what a program's own is to be filtered by besides."""
    machine = os.uname().machine
    seccomp.Filter(seccomp.filter_for_all(machine, own_user=settings["user"] is None)).install()
    return seccomp.Filter(seccomp.filter_for_program(machine, landlock.keeps_signals_inside(settings["landlock"])))


def _shut_in(settings: dict[str, Any]) -> None:
    """Takes from this process what no limit takes."""
    if settings["rules"] is not None:
        landlock.enter(settings["rules"])
    settings["filter"].install()


def _try_to_shut_in(settings: dict[str, Any]) -> None:
    """Fails now, with the reason, rather than in every program."""
    told, tell = os.pipe()
    if os.fork() == 0:
        try:
            _shut_in(settings)
            os.write(tell, b"shut in")
        except BaseException as error:
            os.write(tell, str(error).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.wait()
    with open(told) as file:
        said = file.read()
    if said != "shut in":
        raise OSError(said or "the filter of system calls ends its process")


def _bound(limits: dict[str, Any], counts_others: bool) -> None:
    seconds = int(limits["cpu_seconds"]) + 2  # the watch is finer, and counts all processes; this is the backstop
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"] + (processes.count_of_user() if counts_others else 0)),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _be_program() -> None:
    with open(3, "rb") as file:
        source = file.read().decode()
    candidate.serve(source, socket.socket(fileno=4))


def _be_tests() -> None:
    tests.run_tests(socket.socket(fileno=3), socket.socket(fileno=4))


def _be_command() -> None:
    """Writes the program's files, then becomes the interpreter; what it prints goes to the runner."""
    with open(3, "rb") as file:
        task = json.loads(file.read())
    for name, text in task["files"].items():
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
    os.dup2(4, 1)
    os.close(4)
    os.execvpe(task["command"][0], task["command"], {"PATH": os.defpath, "HOME": os.getcwd(), "TMPDIR": os.getcwd()})


def _watch(
    last: int,
    limits: dict[str, Any],
    folder: str,
    control: socket.socket,
    others: processes.Others,
    started: float,
) -> str:
    """Waits for the process that ends last; says "ended", or which limit was passed."""
    descriptor = os.pidfd_open(last)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(control, select.POLLHUP)
    idle, looked, cpu = 0.0, time.monotonic(), 0.0
    try:
        while True:
            for ready, _ in poll.poll(_POLL_SECONDS * 1000):
                if ready == descriptor:
                    return "ended"
                os._exit(1)  # the runner is gone
            now = time.monotonic()
            use = others.measure()
            idle = idle + now - looked if use.all_sleep and use.cpu_seconds - cpu < 0.02 else 0.0
            looked, cpu = now, use.cpu_seconds
            if use.cpu_seconds > limits["cpu_seconds"]:
                return "cpu time"
            if use.memory_bytes > limits["memory_bytes"]:
                return "memory"
            if idle > limits["idle_seconds"]:
                return "idle"
            if now - started > limits["wall_seconds"]:
                return "wall time"
            if processes.bytes_under(folder, limits["folder_bytes"]) > limits["folder_bytes"]:
                return "disk"
    finally:
        os.close(descriptor)


def _reap() -> dict[int, int]:
    """Takes in every child, dead or about to be; their exit codes."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, 0)
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def _empty(folder: str) -> bool:
    """Removes everything in a folder; whether that worked."""
    try:
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    except (OSError, RecursionError):
        return False
    return True


def _load_what_programs_use() -> None:
    """Imports that programs would otherwise do anew, each for itself; and cannot do at all where only limits hold them
    and the interpreter lies in a folder that is closed to their user."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    names = "math cmath re collections itertools functools heapq bisect random string typing copy hashlib datetime "
    names += "operator statistics fractions decimal io textwrap ast abc enum dataclasses contextlib queue struct "
    names += "threading traceback unicodedata calendar array types json encodings.idna encodings.latin_1 _strptime"
    for name in names.split():
        __import__(name)
    with contextlib.suppress(ImportError):
        __import__("_pylong")  # from Python 3.12 on what writes and reads numbers of many digits
