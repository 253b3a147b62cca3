"""What a program that only limits hold may write, by Landlock (Linux 5.13): its folder and the harmless devices.

It can still read what its user can, but no other device: a terminal could be listened to. The kernel also keeps it from
tracing any process outside, whoever runs it, and from Linux 6.12 on from signalling one.
"""

import ctypes
import os
import struct
from collections.abc import Sequence

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_ASK_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _TRUNCATE, _IOCTL_DEVICE = 1 << 1, 1 << 2, 1 << 14, 1 << 15
_CHANGE_FOLDERS = 0x1FF0  # to remove and make entries of any kind
_MOVE = 1 << 13  # from one folder to another
_ADDED_IN = {2: _MOVE, 3: _TRUNCATE, 5: _IOCTL_DEVICE}  # rights by the version that brought them
_SCOPED_IN, _SCOPES = 6, 1 | 2  # abstract Unix sockets, signals

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The kernel's version of Landlock; 0: it has none, or it is turned off."""
    return max(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), _ASK_VERSION), 0)


def keeps_signals_inside(version: int) -> bool:
    """Whether the rules of this version hold signals."""
    return version >= _SCOPED_IN


def rules_of(version: int, folders: Sequence[str], devices: Sequence[str]) -> int:
    """A descriptor of rules: to write into the folders and devices alone.

    Raises:
        OSError: the kernel does not take them, or a folder is not there.
    """
    handled = _WRITE_FILE | _READ_FILE | _CHANGE_FOLDERS
    handled |= sum(right for since, right in _ADDED_IN.items() if version >= since)
    attributes = struct.pack("QQQ", handled, 0, _SCOPES if keeps_signals_inside(version) else 0)
    rules = _checked(_libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0))
    for entry in os.scandir("/"):
        if entry.path != "/dev" and os.path.exists(entry.path):
            _allow(rules, entry.path, _READ_FILE)
    for device in devices:
        _allow(rules, device, (_READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEVICE) & handled)
    for folder in folders:
        _allow(rules, folder, handled)
    return rules


def enter(rules: int) -> None:
    """Holds this process and all that come of it to the rules, for ever. It must have given up new privileges."""
    _checked(_libc.syscall(_RESTRICT_SELF, rules, 0))


def _allow(rules: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _checked(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0))
    finally:
        os.close(descriptor)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
