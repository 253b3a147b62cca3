"""Shuts this process in: its own namespaces and file system, a user without rights. Linux system calls by ctypes.

The order matters: what is mounted needs the rights that are dropped last.
"""

import ctypes
import os
import signal
import struct
from typing import Any

_NEW_NS, _NEW_UTS, _NEW_IPC, _NEW_USER, _NEW_PID, _NEW_NET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2
_SYS_MOUNT_SETATTR = 442  # the same number on every architecture
_AT_CWD, _AT_RECURSIVE = -100, 0x8000
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION = 0x20080522
INSIDE_USER = 65534  # what the program sees itself as
DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def confine(settings: dict[str, Any]) -> None:
    """Does what the isolation of the settings asks for; returns in the process that is to be the zygote.

    Raises:
        OSError: the system does not allow it.
    """
    if settings["isolation"] == "namespaces":
        _become_first_of_new_namespaces(settings)
    elif settings["isolation"] == "bubblewrap" and settings["outer_user"] is not None:
        become(settings["outer_user"])
        _own_user_namespace(_NEW_USER)
        _forbid_more_namespaces()
    if settings["isolation"] != "rlimits":
        _drop_capabilities()
        _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def _become_first_of_new_namespaces(settings: dict[str, Any]) -> None:
    """The parent stays outside and ends with the child, which is process 1 of the new namespaces."""
    if settings["outer_user"] is not None:
        # The folders of the interpreter may be closed to that user: they are mounted by root, in a mount namespace
        # of root's, and entered by the user.
        _check(_libc.unshare(_NEW_NS | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS), "unshare")
    else:
        _own_user_namespace(_NEW_USER | _NEW_NS | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS)
    child = os.fork()
    if child:
        os.close(0)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _build_root(settings)
    if settings["outer_user"] is not None:
        become(settings["outer_user"])
        _own_user_namespace(_NEW_USER)
    _forbid_more_namespaces()


def _own_user_namespace(flags: int) -> None:
    user, group = os.getuid(), os.getgid()
    # Without this the map of a process that changed its user belongs to root.
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")
    _check(_libc.unshare(flags), "unshare")
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_USER} {user} 1"),
        ("gid_map", f"{INSIDE_USER} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _build_root(settings: dict[str, Any]) -> None:
    """A new root: the system's programs and the interpreter, read-only; a small /tmp; nothing else."""
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    root = "/tmp"
    _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEVICES, "size=1m,mode=755")
    for link, target in settings["links"]:
        os.symlink(target, root + link)
    for folder in settings["read_only"]:
        os.makedirs(root + folder, exist_ok=True)
        _mount(folder, root + folder, None, _BIND | _RECURSIVE)
        _read_only(root + folder)
    for folder in settings["hidden"]:
        _mount("tmpfs", root + folder, "tmpfs", _NO_SUID | _NO_DEVICES | _READ_ONLY, "size=4k")
    os.mkdir(f"{root}/dev")
    for name in DEVICES:
        open(f"{root}/dev/{name}", "w").close()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, _BIND)
    for folder, size in (("/tmp", settings["folder_bytes"]), ("/dev/shm", settings["folder_bytes"] // 4)):
        os.mkdir(root + folder)
        _mount("tmpfs", root + folder, "tmpfs", _NO_SUID | _NO_DEVICES, f"size={size},nr_inodes=16384,mode=777")
    os.mkdir(f"{root}/proc")
    _mount("proc", f"{root}/proc", "proc", _NO_SUID | _NO_DEVICES)
    os.chdir(root)
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _DETACH), "umount2")
    os.chdir("/tmp")
    _mount(None, "/", None, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES)


def _read_only(folder: str) -> None:
    """This mount and all below it."""
    attributes = struct.pack("QQQQ", _READ_ONLY | _NO_SUID, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    failed = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_CWD, folder.encode(), _AT_RECURSIVE, attributes, size)
    _check(failed, f"mount_setattr {folder}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def become(user: int) -> None:
    """Makes this process that user's, for good."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _forbid_more_namespaces() -> None:
    """In a user namespace of its own a program would have rights over what it mounts there."""
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")


def _drop_capabilities() -> None:
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _check(_libc.capset(header, struct.pack("6I", *[0] * 6)), "capset")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
