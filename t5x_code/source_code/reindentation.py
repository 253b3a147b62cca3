"""Python programs with four spaces for each level of indentation, whatever they were written with."""

import io
import tokenize

from t5x_code.source_code.obfuscation import is_same_program

LEVEL = "    "


def reindent(source: str) -> str:
    """The same program, indented anew; as it is where Python cannot read it.

    Lines that go on a statement, inside brackets or strings, stay as they are. A comment is indented as what follows.
    """
    lines = list(io.StringIO(source))  # as `tokenize` counts them: a form feed ends none
    try:
        for number, level in _levels(source).items():
            lines[number - 1] = LEVEL * level + lines[number - 1].lstrip()
    except (tokenize.TokenError, SyntaxError):
        return source
    text = "".join(lines)
    return text if is_same_program(source, text) else source


def _levels(source: str) -> dict[int, int]:
    """The level of each line, from 1, that a statement or a comment of its own begins on."""
    levels: dict[int, int] = {}
    level, is_between, comments = 0, True, []
    for part in tokenize.generate_tokens(io.StringIO(source).readline):
        if part.type == tokenize.INDENT:
            level += 1
        elif part.type == tokenize.DEDENT:
            level -= 1
        elif part.type == tokenize.NEWLINE:
            is_between = True
        elif is_between and part.type == tokenize.COMMENT:
            comments.append(part.start[0])
        elif is_between and part.type not in (tokenize.NL, tokenize.ENDMARKER):
            levels.update(dict.fromkeys([*comments, part.start[0]], level))
            is_between, comments = False, []
    return levels
