"""Runs a command as a user without rights, who may come to what root's folders hide from others:

    python as_another_user.py USER FOLDER[:FOLDER...] COMMAND...

Where a folder cannot be reached by all, what closes it is covered, for this command alone, by an empty folder in which
the folder lies again.
"""

import ctypes
import os
import sys

_NEW_NS, _BIND, _RECURSIVE, _PRIVATE = 0x20000, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def main(user: int, folders: list[str], command: list[str]) -> None:
    """Becomes the command."""
    if _libc.unshare(_NEW_NS):
        sys.exit("unshare: not permitted")
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None))
    held = {folder: os.open(folder, os.O_PATH) for folder in map(os.path.realpath, folders)}
    for closed in {_closed_above(folder) for folder in held} - {None}:
        _check(_libc.mount(b"tmpfs", closed.encode(), b"tmpfs", ctypes.c_ulong(0), b"mode=755"))
        for folder, descriptor in held.items():
            if folder.startswith(f"{closed}/"):
                os.makedirs(folder, exist_ok=True)
                source = f"/proc/self/fd/{descriptor}".encode()
                _check(_libc.mount(source, folder.encode(), None, ctypes.c_ulong(_BIND | _RECURSIVE), None))
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.execv(command[0], command)


def _closed_above(folder: str) -> str | None:
    """The highest folder on the way that others cannot pass."""
    parts = folder.split("/")
    for length in range(2, len(parts) + 1):
        above = "/".join(parts[:length])
        if not os.stat(above).st_mode & 0o001:
            return above
    return None


def _check(failed: int) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2].split(":"), sys.argv[3:])
