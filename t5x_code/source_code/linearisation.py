"""Newlines and indentation as three marks, so that a tokenizer spends one token on each (arXiv 2402.05783).

A line that is not blank begins with as many indents or dedents as its level differs from that of the last such line, a
level being four spaces; spaces beyond whole levels stay. Any text without the marks themselves survives the round trip
[ours: the release's treatment of lines inside brackets and strings is not known; here they are lines like any other].
"""

LEVEL = 4  # spaces


def linearise(text: str, new_line: str, indent: str, dedent: str) -> str:
    """The text on one line.

    Args:
        text: holds none of the marks.
        new_line: mark between two lines.
        indent: mark for one level more than the line before.
        dedent: mark for one level less.

    Raises:
        ValueError: the text holds a mark.
    """
    if any(mark in text for mark in (new_line, indent, dedent)):
        raise ValueError("the text holds one of the marks of linearised code")
    lines, level = [], 0
    for line in text.split("\n"):
        content = line.lstrip(" ")
        if content.strip():
            before, level = level, (len(line) - len(content)) // LEVEL
            line = (indent * (level - before) or dedent * (before - level)) + line[level * LEVEL :]
        lines.append(line)
    return new_line.join(lines)


def linearise_function(signature: str, body: str, new_line: str, indent: str, dedent: str) -> tuple[str, str]:
    """A signature of whole lines and a body, each on one line; the body's marks count from the signature's last line.

    Raises:
        ValueError: one holds a mark.
    """
    lines = linearise(signature + body, new_line, indent, dedent).split(new_line)
    signature_lines = signature.count("\n")
    return "".join(line + new_line for line in lines[:signature_lines]), new_line.join(lines[signature_lines:])


def restore_lines(text: str, new_line: str, indent: str, dedent: str, behind: str = "") -> str:
    """Inverse of `linearise`; marks that no text gives, such as a model's, are read as well as they can be.

    Args:
        text: on one line.
        new_line: as in `linearise`.
        indent: likewise.
        dedent: likewise.
        behind: what the text goes on behind, not linearised: marks count from its last line's level, and a line that
            it leaves unfinished is not indented anew; one of which it has only spaces, by these less.
    """
    lines, level, begun = [], _last_level(behind), behind.rpartition("\n")[2]
    for line in text.split(new_line):
        content = line.lstrip(indent + dedent)
        marks = line[: len(line) - len(content)]
        level = max(0, level + marks.count(indent) - marks.count(dedent))
        content = content.replace(indent, "").replace(dedent, "")
        indentation = "" if not lines and begun.strip(" ") else " " * (LEVEL * level)
        lines.append(indentation + content if content.strip() else content)
    if not begun.strip(" "):
        spaces = len(lines[0]) - len(lines[0].lstrip(" "))
        lines[0] = lines[0][min(spaces, len(begun)) :]
    return "\n".join(lines)


def _last_level(text: str) -> int:
    """Level of the last line that is not blank."""
    last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
    return (len(last) - len(last.lstrip(" "))) // LEVEL
