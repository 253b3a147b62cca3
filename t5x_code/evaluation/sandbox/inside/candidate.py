"""The process that runs a program nobody has read, and then answers what the tests ask of it.

Whatever the program does here, it does to itself: the tests, their data and the verdict are in another process.
"""

import operator
import socket
import sys
import types
from typing import Any

from t5x_code.evaluation.sandbox.inside.wire import Closed, Wire

_OPERATIONS = {
    "get": getattr,
    "set": setattr,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "item": operator.getitem,
    "set_item": operator.setitem,
    "contains": operator.contains,
}
_MOST_MESSAGE = 300  # characters of an exception's text


def serve(source: str, connection: socket.socket) -> None:
    """Runs the program, says how that went, then answers until nobody asks any more."""
    kept: list[Any] = []

    def keep(value: Any) -> tuple[int]:
        kept.append(value)
        return (len(kept) - 1,)

    wire = Wire(connection, keep, kept.__getitem__)
    # Not __main__: a script's own main part does not run. Dataclasses look their module up by its name.
    module = sys.modules["program"] = types.ModuleType("program")
    namespace = module.__dict__
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        wire.send(*_raised(error))
        return
    wire.send("ready")
    while True:
        try:
            request = wire.receive()
        except Closed:
            return
        try:
            answer = _answer(wire, namespace, request)
        except Closed:
            raise
        except BaseException as error:
            answer = _raised(error)
        wire.send(*answer)


def _answer(wire: Wire, namespace: dict[str, Any], request: list[Any]) -> tuple[Any, ...]:
    kind, *parts = request
    if kind == "names":
        return "value", {name: wire.encode(namespace[name]) for name in parts[0] if name in namespace}
    if kind == "call":
        function, arguments, keywords = wire.decode(parts[0]), parts[1], parts[2]
        positional = [wire.decode(argument) for argument in arguments]
        value = function(*positional, **{name: wire.decode(item) for name, item in keywords.items()})
        changed = {
            str(index): now
            for index, before in enumerate(arguments)
            if type(before) is list and before[0] in ("list", "dict", "set")
            for now in [wire.encode(positional[index])]
            if now != before
        }
        return "value", wire.encode(value), changed
    return "value", wire.encode(_OPERATIONS[kind](*map(wire.decode, parts)))


def _raised(error: BaseException) -> tuple[str, list[str], str]:
    """The names of its classes, the nearest first, and its text."""
    try:
        text = str(error)[:_MOST_MESSAGE]
    except BaseException:
        text = ""
    return "raised", [cls.__name__ for cls in type(error).__mro__], text
