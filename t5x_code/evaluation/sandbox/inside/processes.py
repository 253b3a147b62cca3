"""The processes of a program: which they are, what they use, and their end."""

import contextlib
import ctypes
import dataclasses
import os
import shutil
import signal
import stat
import time
from collections.abc import Iterator

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGESIZE")
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")  # that everybody may write to


@dataclasses.dataclass(frozen=True)
class Use:
    """What some processes have used together."""

    cpu_seconds: float
    memory_bytes: int
    all_sleep: bool


class Others:
    """Every process that came of a program.

    In a process namespace of its own the zygote is process 1, and they are all others. Without one they are those of
    the sandbox's own user, or where there is none either, all descendants.
    """

    def __init__(self, user: int | None):
        self._user = user
        self._is_first = os.getpid() == 1
        if not self._is_first:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def pids(self) -> Iterator[int]:
        """Numbers of those that live now."""
        if self._is_first:
            yield from (pid for pid in _all_pids() if pid != 1)
        elif self._user is not None:
            yield from (pid for pid in _all_pids() if _user_of(pid) == self._user)
        else:
            yield from _descendants(os.getpid())

    def measure(self) -> Use:
        """Adds up what they use, children that are gone included."""
        cpu, memory, all_sleep = 0.0, 0, True
        for pid in self.pids():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = _stat_fields(pid)
                cpu += sum(map(int, fields[11:15])) / _TICK
                memory += int(fields[21]) * _PAGE
                all_sleep &= fields[0] in "SZTtX"
        return Use(cpu, memory, all_sleep)

    def kill(self) -> dict[int, int]:
        """Ends them all, however fast they multiply; exit codes of those that were taken in on the way."""
        ended: dict[int, int] = {}
        if self._is_first:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # all others of this namespace, in one go
            return ended
        for _ in range(200):
            found = list(self.pids())
            if not found:
                break
            # Stopped first: what is stopped does not multiply.
            for each in (signal.SIGSTOP, signal.SIGKILL):
                for pid in found:
                    self._signal(pid, each)
            ended |= _reap(found)
            time.sleep(0.001)
        return ended

    def are_gone(self) -> bool:
        """Whether none is left."""
        return not list(self.pids())

    def _signal(self, pid: int, number: int) -> None:
        """Signals through a descriptor, so that a number that was given anew is not mistaken for the old process."""
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if self._user is None or _user_of(pid) == self._user:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def hide_memory() -> None:
    """Keeps other processes of this user from reading this one's memory and descriptors; children inherit it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def count_of_user() -> int:
    """Processes and threads that this user has already, where they count against its limit."""
    user, count = os.getuid(), 0
    for pid in _all_pids():
        if _user_of(pid) == user:
            with contextlib.suppress(OSError, IndexError):
                count += int(_stat_fields(pid)[17])
    return count


def bytes_under(folder: str, enough: int) -> int:
    """Bytes of the files below a folder; stops counting once there are more than enough."""
    total, waiting = 0, [folder]
    while waiting and total <= enough:
        with contextlib.suppress(OSError):
            for entry in os.scandir(waiting.pop()):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def remove_strays(user: int, kept: str) -> bool:
    """Removes what a user left in the folders that everybody may write to; whether nothing is left."""
    gone = True
    for folder in _SHARED_FOLDERS:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_uid != user or entry.path == kept:
                        continue
                    if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)
                    gone &= not os.path.lexists(entry.path)
    return gone


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _reap(pids: list[int]) -> dict[int, int]:
    """Takes in those that are dead and our children, as strangers become; their exit codes."""
    ended = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            taken, status = os.waitpid(pid, os.WNOHANG)
            ended |= {taken: os.waitstatus_to_exitcode(status)} if taken else {}
    return ended


def _user_of(pid: int) -> int | None:
    """Real user of a process, whatever it hides."""
    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/status", "rb") as file:
        return int(next(line for line in file if line.startswith(b"Uid:")).split()[1])
    return None


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/pid/stat after the name, which may hold anything: [0] is the state."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _descendants(ancestor: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        with contextlib.suppress(OSError, IndexError, ValueError):
            children.setdefault(int(_stat_fields(pid)[1]), []).append(pid)
    found, waiting = [], [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")
