"""The system calls of a program that only limits hold: filters (seccomp, classic BPF) that the kernel asks first.

Where the program is of the runner's own user, it could stop, end, trace, slow and read whatever that user runs. EPERM
is the answer to what reaches other processes, the network, namespaces of its own, or things that outlive it. Filters
see numbers, not memory: what a path names is not their matter (landlock.py).

A program may signal itself: abort() and raise() do. Its own children too, where Landlock keeps signals inside (Linux
6.12); before, the filter cannot tell them from others, and a subprocess whose time is up cannot be killed.
"""

import ctypes
import errno
import os
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # operations, on the accumulator
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_INSTRUCTION, _SIZE = "HBBI", 8
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # of little-endian machines
_X32 = 0x40000000  # bit of a number: the same call with short pointers, by other numbers than the filter's

Numbers = dict[str, tuple[int, int | None]]

# Numbers on x86_64 and aarch64; None: not there. From 424 on they are alike everywhere.
# fmt: off
_OTHER_PROCESSES = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
}
_NETWORK = {  # with io_uring, whose calls pass by every filter
    "socket": (41, 198), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}
_NAMESPACES = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
}
_KERNEL = {"bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
           "add_key": (248, 217), "request_key": (249, 218)}
_OUTLIVING = {  # System V's and POSIX's shared memory, semaphores and queues: the user's own among them
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
}
_OWN_FILES = {  # what Landlock lets the owner of a file do to it
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "file_setattr": (469, 469), "truncate": (76, 45),
}
_DESCRIPTORS = {"pidfd_open": (434, 434), "pidfd_send_signal": (424, 424)}  # of processes
_CONDITIONAL = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "socketpair": (53, 199), "clone": (56, 220), "fcntl": (72, 25), "ioctl": (16, 29), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
}
# fmt: on
_OWN, _OWN_GROUP = 0x7E0A0001, 0x7E0A0002  # stand for the process's number, and less that number, until it is known
_CLONE3 = 435  # its flags lie in memory; without it the C library takes clone
_NEW_NAMESPACES = 0x7E020000  # flags of clone
_AF_UNIX, _DATAGRAM_BIT = 1, 2  # of a socket's type; a pair of datagram sockets can send to anybody's
_F_SETFL, _F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _O_ASYNC = 4, 8, 10, 15, 0x2000  # a file that signals its owner
_FIOSETOWN, _SIOCSPGRP, _FIOASYNC, _TIOCSTI, _TIOCLINUX = 0x8901, 0x8902, 0x5452, 0x5412, 0x541C

Instructions = list[tuple[int, int, int, int]]  # operation, how many to skip if true, if false, operand


class Filter:
    """A filter made ready beforehand: a process that was just forked pays for every page that it touches."""

    def __init__(self, code: bytes):
        self._code = ctypes.create_string_buffer(code, len(code))
        self._program = struct.pack("@HP", len(code) // _SIZE, ctypes.addressof(self._code))
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def install(self) -> None:
        """Holds this process and all that come of it to the filter, for ever. It must have given up new privileges.

        Raises:
            OSError: the kernel has no such filters.
        """
        own = os.getpid()
        code = self._code.raw.replace(struct.pack("I", _OWN), struct.pack("I", own))
        self._code.raw = code.replace(struct.pack("I", _OWN_GROUP), struct.pack("i", -own))
        if self._prctl(_PR_SET_SECCOMP, _MODE_FILTER, self._program, 0, 0):
            raise OSError(ctypes.get_errno(), "no filter of system calls")


def filter_for_all(machine: str, own_user: bool) -> bytes:
    """The code of the filter that the zygote can live with too.

    Args:
        machine: as `uname` names it.
        own_user: the programs are of the runner's user, whose files they must not change the modes of.

    Raises:
        OSError: the machine is none of those whose numbers are known.
    """
    refused = _OTHER_PROCESSES | _NETWORK | _NAMESPACES | _KERNEL | _OUTLIVING | (_OWN_FILES if own_user else {})
    return _filter(machine, refused, _CONDITIONS)


def filter_for_program(machine: str, signals_stay_inside: bool) -> bytes:
    """The code of what holds a program's process besides: no signals to others.

    Args:
        machine: as `uname` names it.
        signals_stay_inside: something else sees to it; else the process may signal itself alone.
    """
    return _filter(machine, _DESCRIPTORS, {} if signals_stay_inside else _ITSELF)


def _filter(machine: str, refused: Numbers, conditions: dict[str, Instructions]) -> bytes:
    if machine not in _AUDIT:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {machine}")
    column = list(_AUDIT).index(machine)
    code = [_load(_ARCHITECTURE), (_EQUAL, 1, 0, _AUDIT[machine]), _refuse()]
    code += [_load(_NUMBER), (_ANY_BIT, 0, 1, _X32), _refuse()]
    for numbers in refused.values():
        if numbers[column] is not None:
            code += [(_EQUAL, 0, 1, numbers[column]), _refuse()]
    code += [(_EQUAL, 0, 1, _CLONE3), _refuse(errno.ENOSYS)]
    for name, condition in conditions.items():
        number = _CONDITIONAL[name][column]
        code += [(_EQUAL, 0, len(condition) + 1, number), *condition, (_RETURN, 0, 0, _ALLOW)]
    code += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack(_INSTRUCTION, *instruction) for instruction in code)


def _load(offset: int) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, offset)


def _refuse(number: int = errno.EPERM) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | number)


def _argument(index: int) -> tuple[int, int, int, int]:
    """The lower half: the kernel reads no more of what is compared here."""
    return _load(_ARGUMENTS + 8 * index)


def _is(index: int, *values: int) -> Instructions:
    """Refuses an argument that is none of the values."""
    tests = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [_argument(index), *tests, _refuse()]


def _is_none(index: int, *values: int) -> Instructions:
    """Refuses an argument that is one of the values."""
    return [_argument(index), *(step for value in values for step in ((_EQUAL, 0, 1, value), _refuse()))]


def _has_none(index: int, bits: int) -> Instructions:
    """Refuses an argument that has one of the bits."""
    return [_argument(index), (_ANY_BIT, 0, 1, bits), _refuse()]


def _when(index: int, value: int, condition: Instructions) -> Instructions:
    """Asks the condition only where an argument is the value."""
    return [_argument(index), (_EQUAL, 0, len(condition), value), *condition]


_CONDITIONS = {
    "sched_setaffinity": _is(0, 0),
    "sched_setparam": _is(0, 0),
    "sched_setscheduler": _is(0, 0),
    "sched_setattr": _is(0, 0),
    "prlimit64": _is(0, 0),
    "setpriority": _is(0, 0) + _is(1, 0),  # PRIO_PROCESS; 0 among users would be all that this user runs
    "ioprio_set": _is(0, 1) + _is(1, 0),
    "socketpair": _is(0, _AF_UNIX) + _has_none(1, _DATAGRAM_BIT),
    "clone": _has_none(0, _NEW_NAMESPACES),
    "fcntl": _is_none(1, _F_SETOWN, _F_SETSIG, _F_SETOWN_EX) + _when(1, _F_SETFL, _has_none(2, _O_ASYNC)),
    "ioctl": _is_none(1, _FIOSETOWN, _SIOCSPGRP, _FIOASYNC, _TIOCSTI, _TIOCLINUX),
}
_ITSELF = {
    "kill": _is(0, _OWN, 0, _OWN_GROUP),  # or its group, which it leads
    "tkill": _is(0, _OWN),
    "tgkill": _is(0, _OWN),
    "rt_sigqueueinfo": _is(0, _OWN),
    "rt_tgsigqueueinfo": _is(0, _OWN),
}
