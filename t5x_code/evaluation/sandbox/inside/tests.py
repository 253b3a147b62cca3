"""The process that runs the tests. It runs no line of the program: it asks the program's process for results.

What the tests compare are plain values that were made here. So a program cannot answer `==` itself, patch what the
tests use, leave before they are done, or say that it passed.
"""

import builtins
import socket
from typing import Any

from t5x_code.evaluation.sandbox.inside.wire import Closed, Wire

_MOST_MESSAGE = 300


class Remote:
    """Something of the program that cannot cross: a function, an iterator, an object. Equal to itself alone."""

    def __init__(self, asker: "_Asker", number: int):
        object.__setattr__(self, "_asker", asker)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._asker.call(self, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        return self._asker.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._asker.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._asker.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._asker.ask("set_item", self, key, value)

    def __iter__(self) -> Any:
        return self._asker.ask("iter", self)

    def __next__(self) -> Any:
        return self._asker.ask("next", self)

    def __contains__(self, item: Any) -> bool:
        return bool(self._asker.ask("contains", self, item))

    def __len__(self) -> int:
        return self._asker.ask("len", self)

    def __bool__(self) -> bool:
        return self._asker.ask("bool", self) is True

    def __str__(self) -> str:
        return str(self._asker.ask("str", self))

    def __repr__(self) -> str:
        return str(self._asker.ask("repr", self))


class _Asker:
    """Asks the program's process, one question at a time."""

    def __init__(self, connection: socket.socket):
        self._wire = Wire(connection, self._keep, lambda number: Remote(self, number))

    def _keep(self, value: Any) -> tuple[int]:
        if not isinstance(value, Remote):
            raise TypeError(f"the tests pass a {type(value).__name__}, which cannot cross to the program's process")
        return (object.__getattribute__(value, "_number"),)

    def wait_until_ready(self) -> None:
        self._answer(expected="ready")

    def names(self, names: list[str]) -> dict[str, Any]:
        self._wire.send("names", names)
        return {name: self._wire.decode(value) for name, value in self._answer()[0].items() if name in names}

    def ask(self, kind: str, *values: Any) -> Any:
        self._wire.send(kind, *map(self._wire.encode, values))
        return self._wire.decode(self._answer()[0])

    def call(self, function: Remote, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        encode, decode = self._wire.encode, self._wire.decode
        encoded = {name: encode(value) for name, value in keywords.items()}
        self._wire.send("call", encode(function), [encode(argument) for argument in arguments], encoded)
        value, changed = self._answer()
        for index, now in changed.items():
            _replace_contents(arguments[int(index)], decode(now))
        return decode(value)

    def _answer(self, expected: str = "value") -> list[Any]:
        kind, *parts = self._wire.receive()
        if kind == "raised":
            raise _exception(*parts)
        if kind != expected:
            raise Closed("not an answer")
        return parts


def run_tests(runner: socket.socket, program: socket.socket) -> None:
    """Reads what to test from the runner, tests, and tells the runner, with the nonce that only it and we know."""
    wire = Wire(runner, None, None)
    task = wire.receive()[0]
    try:
        asker = _Asker(program)
        asker.wait_until_ready()
        namespace: dict[str, Any] = {"__name__": "tests"}
        if task["from_reference"]:
            reference: dict[str, Any] = {"__name__": "reference"}
            exec(task["reference"], reference)
            namespace |= {name: reference[name] for name in task["from_reference"] if name in reference}
        namespace |= asker.names(task["from_program"])
        exec(compile(task["tests"], "tests.py", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        wire.send("failed", task["nonce"], _describe(error))
        return
    wire.send("passed", task["nonce"], "passed")


def _replace_contents(target: Any, now: Any) -> None:
    """Does to the tests' own list, dict or set what the program did to its copy."""
    if type(target) is not type(now):
        raise Closed("an argument came back as something else")
    target.clear()
    target.extend(now) if isinstance(target, list) else target.update(now)


def _exception(names: list[str], text: str) -> BaseException:
    """The nearest built-in exception."""
    for name in names:
        found = getattr(builtins, str(name), None)
        if isinstance(found, type) and issubclass(found, BaseException):
            try:
                return found(str(text))
            except TypeError:  # a UnicodeDecodeError takes more than a text
                continue
    return Exception(str(text))


def _describe(error: BaseException) -> str:
    text = f"the program ended: {error}" if isinstance(error, Closed) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()).encode("utf-8", "replace").decode()[:_MOST_MESSAGE]
