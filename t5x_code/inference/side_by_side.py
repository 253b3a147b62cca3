"""Plain-text layout that shows what a model wrote beside what a person wrote."""

import dataclasses
from itertools import zip_longest

BOLD, DIM, PLAIN = "\033[1m", "\033[2m", "\033[0m"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One text by the model and the original, with what stands around both."""

    title: str
    before: str  # shown as given to the model
    model: str
    original: str
    after: str = ""


def render(comparison: Comparison, width: int = 100, colour: bool = False) -> str:
    """A ruled block: the text before, two columns of equal width, the text after.

    Args:
        comparison: what to show.
        width: of the block in characters; longer lines are folded.
        colour: mark the model's text and dim its surroundings by ANSI codes, for a terminal.
    """
    column = (width - 7) // 2

    def dim(text: str) -> list[str]:
        return [f"{DIM}  {line}{PLAIN}" if colour else f"  {line}" for line in _fold(text, width - 2)]

    def row(left: str, right: str) -> str:
        left = f"{BOLD}{left:{column}}{PLAIN}" if colour else f"{left:{column}}"
        return f"│ {left} │ {right:{column}} │"

    lines = zip_longest(_fold(comparison.model, column), _fold(comparison.original, column), fillvalue="")
    block = [
        f"── {comparison.title} ".ljust(width, "─"),
        *dim(comparison.before),
        f"┌─ model {'─' * (column - 6)}┬─ original {'─' * (column - 9)}┐",
        *(row(left, right) for left, right in lines),
        f"└{'─' * (column + 2)}┴{'─' * (column + 2)}┘",
        *dim(comparison.after),
    ]
    return "\n".join(line.rstrip() for line in block)


def _fold(text: str, width: int) -> list[str]:
    """Lines of at most `width` printable characters; blank lines at both ends are left out."""
    lines = text.expandtabs(4).splitlines()
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    clean = ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line.rstrip()) for line in lines]
    return [line[at : at + width] for line in clean for at in range(0, max(len(line), 1), width)]
