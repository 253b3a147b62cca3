"""What a hostile program is. Each is bounded by itself, so that a hole in the sandbox does not take the machine down: a
few thousand forks, a gigabyte, a minute.

The task is `square(x)`; none solves it. A program that tries to reach something says by its exception how that went.
"""

import dataclasses
import textwrap

TESTS = "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(3) - 9) < 1e-6\ncheck(square)\n"
WRONG = "AssertionError"


@dataclasses.dataclass(frozen=True)
class Hostile:
    """A program, and a pattern of what must come of it; `alone` where nothing but resource limits hold it."""

    name: str
    source: str
    expected: str
    alone: str | None = None

    def expected_at(self, isolation: str) -> str:
        return self.alone if isolation == "rlimits" and self.alone else self.expected


def hostile(name: str, source: str, expected: str, alone: str | None = None) -> Hostile:
    return Hostile(name, textwrap.dedent(source), expected, alone)


def attempt(name: str, source: str, expected: str = "blocked", alone: str | None = None) -> Hostile:
    """A program that sets `reached` when its attempt succeeds; errors are what stops it."""
    body = textwrap.indent(textwrap.dedent(source), "    ")
    head = "reached, why = False, ''\ntry:\n"
    tail = "\nexcept BaseException as error:\n    why = repr(error)\n"
    tail += "raise RuntimeError(('reached ' if reached else 'blocked ') + why)\n"
    return Hostile(name, head + body + tail, expected, alone)


DEAD = r"the program ended|ended with status"
