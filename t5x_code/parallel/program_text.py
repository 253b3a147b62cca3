"""The text of a compiled program, XLA's optimized HLO: its computations, and how often each runs.

What stands in a loop runs once per iteration, or once in all where the text does not tell the number of iterations.
"""

import re
from collections import Counter

INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_END = re.compile(r"^\}(, execution_thread=.*)?$")
_CALLED = re.compile(r"\b(calls|body|to_apply|branch_computations|true_computation|false_computation)=\{?([^,}]*)")
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_CONSTANT = re.compile(r"%([\w.-]+) = [su](?:32|64)\[\](?:\{[^}]*\})? constant\((\d+)\)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def split_computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation by its name, and the name of the one that the program starts with."""
    computations: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = match.group(2)
            computations[current] = []
            entry = current if match.group(1) else entry
        elif _END.match(line):  # no line of a kernel's attributes, some of which begin with a bracket too
            current = ""
        elif current:
            computations[current].append(line)
    return computations, entry


def count_runs(computations: dict[str, list[str]], entry: str) -> Counter:
    """How often each computation runs."""
    calls: dict[str, list[tuple[str, int]]] = {}
    for name, lines in computations.items():
        calls[name] = []
        for line in lines:
            for attribute, callees in _CALLED.findall(line):
                turns = _turns(line, computations) if attribute == "body" else 1
                calls[name] += [(callee.strip(" %"), turns) for callee in callees.split(",")]
    times: Counter = Counter({entry: 1})
    for name in reversed(computations):  # a computation stands before those that call it
        for callee, turns in calls[name]:
            if callee in computations:
                times[callee] += times[name] * turns
    return times


def _turns(line: str, computations: dict[str, list[str]]) -> int:
    """Of a loop: its known trip count; else the one constant that its condition compares with, over the step of the
    counter (the compiler unrolls some loops twice); else 1."""
    if match := _TRIP_COUNT.search(line):
        return int(match.group(1))
    condition = computations.get(_CONDITION.search(line).group(1), [])
    limits = [int(limit) for _, limit in _CONSTANT.findall("\n".join(condition))]
    counters = re.findall(r"get-tuple-element\(\S+\), index=(\d+)", "\n".join(condition))
    if len(limits) != 1 or len(counters) != 1:
        return 1
    body = next(callees for attribute, callees in _CALLED.findall(line) if attribute == "body")
    return -(-limits[0] // _step(computations[body.strip(" %")], int(counters[0])))


def _step(body: list[str], counter: int) -> int:
    """What a loop's body adds to its counter, the element of that number of its state; 1 where it cannot be read."""
    text = "\n".join(body)
    state = re.search(r"ROOT \S+ = .* tuple\((.*?)\)(?:,|$)", text)
    names = re.findall(r"%([\w.-]+)", state.group(1)) if state else []
    if counter >= len(names):
        return 1
    addition = re.search(rf"%{re.escape(names[counter])} = \S+ add\(%\S+, %([\w.-]+)\)", text)
    constants = dict(_CONSTANT.findall(text))
    return int(constants.get(addition.group(1), 1)) if addition else 1
