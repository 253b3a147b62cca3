"""Values between the process that runs a program and the process that tests it: as JSON, so that nothing a program
sends can run anything here.

Plain data crosses as itself; anything else stays where it is and is known by a number (a handle). A subclass of a
plain type crosses as the plain type: what a program's own `__eq__` says of it does not matter to the tests.
"""

import decimal
import fractions
import json
import numbers
import socket
import struct
from typing import Any

MOST_BYTES = 64 << 20  # of one message
_LENGTH = struct.Struct("!I")
_PLAIN = (type(None), bool, str)


class Closed(Exception):
    """The other process is gone, or what it says makes no sense."""


class Wire:
    """One end: `keep` gives a handle's number to what cannot cross, `find` turns a number back into something."""

    def __init__(self, connection: socket.socket, keep: Any, find: Any):
        self._connection, self._keep, self._find = connection, keep, find

    def send(self, *message: Any) -> None:
        """Sends a message of plain parts and encoded values."""
        data = json.dumps(message).encode()
        if len(data) > MOST_BYTES:
            raise Closed("a value is too large")
        try:
            self._connection.sendall(_LENGTH.pack(len(data)) + data)
        except OSError as error:
            raise Closed("the other process is gone") from error

    def receive(self) -> list[Any]:
        """The next message."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > MOST_BYTES:
            raise Closed("a value is too large")
        try:
            message = json.loads(self._exactly(length))
        except (ValueError, RecursionError) as error:
            raise Closed("not a message") from error
        if not isinstance(message, list) or not message:
            raise Closed("not a message")
        return message

    def _exactly(self, length: int) -> bytes:
        parts = []
        while length:
            try:
                part = self._connection.recv(min(length, 1 << 20))
            except OSError as error:
                raise Closed("the other process is gone") from error
            if not part:
                raise Closed("the other process is gone")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def encode(self, value: Any) -> Any:
        """A JSON value for anything."""
        try:
            return self._encode(value)
        except RecursionError:
            return ["handle", *self._keep(value)]

    def _encode(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is int:
            return value if -(1 << 53) < value < 1 << 53 else ["int", hex(value)]
        if kind is float:
            return ["float", value.hex()]
        if isinstance(value, list):
            return ["list", [self._encode(item) for item in list.__iter__(value)]]
        if isinstance(value, tuple):
            return ["tuple", [self._encode(item) for item in tuple.__iter__(value)]]
        if isinstance(value, set | frozenset):
            name = "set" if isinstance(value, set) else "frozenset"
            return [name, [self._encode(item) for item in list(value)]]
        if isinstance(value, dict):
            return ["dict", [[self._encode(key), self._encode(dict.__getitem__(value, key))] for key in list(value)]]
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, bytes | bytearray):
            return ["bytes", bytes(value).hex()]
        if isinstance(value, range):
            return ["range", [self._encode(part) for part in (value.start, value.stop, value.step)]]
        if isinstance(value, decimal.Decimal):
            return ["decimal", str(value)]
        return self._encode_number(value)

    def _encode_number(self, value: Any) -> Any:
        if isinstance(value, numbers.Integral):
            return self._encode(int.__index__(value) if isinstance(value, int) else int(value))
        if isinstance(value, fractions.Fraction):
            return ["fraction", self._encode(value.numerator), self._encode(value.denominator)]
        if isinstance(value, numbers.Real):
            return self._encode(float(value))
        if isinstance(value, numbers.Complex):
            return ["complex", complex(value).real.hex(), complex(value).imag.hex()]
        for name, plain in _TYPES.items():
            if value is plain:
                return ["type", name]
        return ["handle", *self._keep(value)]

    def decode(self, value: Any) -> Any:
        """The value of what `encode` made; Closed for anything else."""
        try:
            return self._decode(value)
        except Closed:
            raise
        except Exception as error:
            raise Closed("not a value") from error

    def _decode(self, value: Any) -> Any:
        if type(value) in _PLAIN or type(value) is int:
            return value
        name, *parts = value
        if name in _COLLECTIONS:
            return _COLLECTIONS[name](self._decode(item) for item in parts[0])
        if name == "dict":
            return {self._decode(key): self._decode(item) for key, item in parts[0]}
        if name == "range":
            return range(*map(self._decode, parts[0]))
        if name == "fraction":
            return fractions.Fraction(*map(self._decode, parts))
        if name == "handle":
            return self._find(*parts)
        return _SCALARS[name](*parts)


# Of plain data: MBPP/533 is asked for the items of a type.
_TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)}
_COLLECTIONS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_SCALARS = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "bytes": bytes.fromhex,
    "decimal": decimal.Decimal,
    "type": lambda name: _TYPES[name],
    "complex": lambda real, imaginary: complex(float.fromhex(real), float.fromhex(imaginary)),
}
