"""Progress bars: on a terminal they move, in the log of a batch job they are a line every half minute."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from t5x_code.terminal import say

SECONDS_BETWEEN_LINES = 30


def progress_bar(iterable: Iterable | None = None, *, unit: str, shown: bool = True, **options: Any) -> tqdm:
    """A bar on stderr.

    Args:
        iterable: what is counted, unless the caller calls `update`.
        unit: what one is, in the singular. 'B' counts bytes, in thousands and so on.
        shown: False makes a bar that prints nothing.
        **options: `total`, `desc`, `initial` of tqdm.
    """
    size = {"unit": unit, "unit_scale": True} if unit == "B" else {"unit": f" {unit}"}
    if not sys.stderr.isatty():
        # tqdm would print sooner by itself where `maxinterval` passes.
        size |= {"file": _Lines(), "mininterval": SECONDS_BETWEEN_LINES, "maxinterval": SECONDS_BETWEEN_LINES}
    return _Bar(iterable, disable=not shown, **size, **options)


class _Bar(tqdm):
    @staticmethod
    def format_meter(*args: Any, **fields: Any) -> str:
        """tqdm's text; of slow work it says `4.87s/ prompt`, as the unit begins with a space."""
        return tqdm.format_meter(*args, **fields).replace("s/ ", "s/")


class _Lines:
    """stderr, with each state of a bar on a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            say(text.strip())

    def flush(self) -> None:
        sys.stderr.flush()
