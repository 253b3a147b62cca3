"""The filters of system calls: their code is run here by a small machine, for both architectures."""

import errno
import re
import struct
from pathlib import Path

import pytest

from t5x_code.evaluation.sandbox.inside import seccomp

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
OWN = 4711
# Arguments, and whether the call is made.
CASES = {
    "clone": [((0x01200011,), True), ((0x003D0F00,), True), ((0x10000011,), False), ((0x40000000,), False)],
    "socketpair": [((1, 1), True), ((1, 0x80005), True), ((1, 2), False), ((1, 0x80002), False), ((30, 1), False)],
    "prlimit64": [((0, 7), True), ((OWN, 7), False), ((1, 7), False)],
    "setpriority": [((0, 0, 5), True), ((0, OWN, 5), False), ((1, 0, 5), False), ((2, 0, 5), False)],
    "ioprio_set": [((1, 0), True), ((1, OWN), False), ((3, 0), False)],
    "fcntl": [((3, 1), True), ((3, 4, 0x800), True), ((3, 4, 0x2000), False), ((3, 8), False), ((3, 10), False)],
    "ioctl": [((0, 0x5401), True), ((0, 0x5412), False), ((0, 0x8901), False), ((0, 0x5452), False)],
    "sched_setaffinity": [((0, 8), True), ((1, 8), False), ((1 << 32, 8), True), ((1 << 32 | 1, 8), False)],
}
SIGNALS = {
    "kill": [((OWN, 6), True), ((0, 6), True), ((-OWN, 6), True), ((-1, 9), False), ((-1 - OWN,), False)],
    "tgkill": [((OWN, 4712, 6), True), ((4712, 4712, 6), False)],
    "tkill": [((OWN, 6), True), ((4712, 6), False)],
    "rt_sigqueueinfo": [((OWN, 6), True), ((1, 6), False)],
    "rt_tgsigqueueinfo": [((OWN, OWN, 6), True), ((1, 1, 6), False)],
}  # fmt: skip


def answer(code: bytes, machine: str, number: int, arguments: tuple[int, ...] = (), audit: int | None = None) -> int:
    """What the filter answers to a call: 0, or an error's number."""
    padded = [argument & (1 << 64) - 1 for argument in (*arguments, *[0] * 6)[:6]]
    data = struct.pack("<IIQ6Q", number, AUDIT[machine] if audit is None else audit, 0, *padded)
    steps, place, value = list(struct.iter_unpack("HBBI", code)), 0, 0
    while True:
        operation, if_true, if_false, operand = steps[place]
        place += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("<I", data, operand)
        elif operation == 0x15:
            place += if_true if value == operand else if_false
        elif operation == 0x45:
            place += if_true if value & operand else if_false
        else:
            assert operation == 0x06 and operand & 0xFFFF0000 in (0x7FFF0000, 0x00050000)
            return operand & 0xFFFF


def numbers(machine: str) -> dict[str, int]:
    if not HEADERS[machine].exists():
        pytest.skip(f"no {HEADERS[machine]}")
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", HEADERS[machine].read_text(), re.MULTILINE)
    return {name: int(number) for name, number in found}


def codes(machine: str) -> list[bytes]:
    return [seccomp.filter_for_all(machine, own_user=True), seccomp.filter_for_program(machine, False)]


@pytest.mark.parametrize("machine", AUDIT)
def test_exactly_these_are_refused(machine):
    """By the names that the system's own headers give to the numbers; a header may be older than a call."""
    tables = (
        seccomp._OTHER_PROCESSES, seccomp._NETWORK, seccomp._NAMESPACES, seccomp._KERNEL, seccomp._OUTLIVING,
        seccomp._OWN_FILES, seccomp._DESCRIPTORS,
    )  # fmt: skip
    named = {name for table in tables for name in table}
    refused = {
        name: {answer(code, machine, number, (-1,) * 6) for code in codes(machine)} - {0}
        for name, number in numbers(machine).items()
    }
    conditional = {"fcntl", "ioctl"}  # whose last arguments were no command
    assert refused.pop("clone3") == {errno.ENOSYS}
    assert {name for name, errors in refused.items() if errors == {errno.EPERM}} == (
        (named | set(seccomp._CONDITIONAL)) & set(refused) - conditional
    )
    assert all(errors in (set(), {errno.EPERM}) for errors in refused.values())


@pytest.mark.parametrize("machine", AUDIT)
def test_arguments_decide(machine):
    everywhere, alone = codes(machine)
    alone = alone.replace(struct.pack("I", seccomp._OWN), struct.pack("I", OWN))
    alone = alone.replace(struct.pack("I", seccomp._OWN_GROUP), struct.pack("i", -OWN))
    scoped = seccomp.filter_for_program(machine, True)
    for code, cases in ((everywhere, CASES), (alone, SIGNALS)):
        for name, of_name in cases.items():
            for arguments, made in of_name:
                number = numbers(machine)[name]
                assert answer(code, machine, number, arguments) == (0 if made else errno.EPERM), (name, arguments)
                assert answer(scoped, machine, number, arguments) == 0


@pytest.mark.parametrize("machine", AUDIT)
def test_other_architectures_are_refused(machine):
    i386, other = 0x40000003, next(AUDIT[name] for name in AUDIT if name != machine)
    for code in codes(machine):
        for number in range(600):
            assert answer(code, machine, number, audit=i386) == errno.EPERM
            assert answer(code, machine, number, audit=other) == errno.EPERM
            assert answer(code, machine, number | 0x40000000) == errno.EPERM  # x32


def test_an_unknown_machine_is_named():
    with pytest.raises(OSError, match="riscv64"):
        seccomp.filter_for_all("riscv64", own_user=True)
