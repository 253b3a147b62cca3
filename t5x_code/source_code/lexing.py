"""Lexical tokens of a program: Python by the standard library, other languages by tree-sitter.

Each grammar is a package of its own (the extra `languages`), loaded when it is first asked for.
"""

import dataclasses
import functools
import importlib
import io
import keyword
import re
import token
import tokenize
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from t5x_code.errors import UserError
from t5x_code.source_code.errors import CannotTransform

Kind = Literal["keyword", "symbol", "word", "comment"]  # a word is a name or a literal

# Language: (package, function of it that gives the grammar).
GRAMMARS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "c": ("tree_sitter_c", "language"),
        "cpp": ("tree_sitter_cpp", "language"),
        "csharp": ("tree_sitter_c_sharp", "language"),
        "go": ("tree_sitter_go", "language"),
        "java": ("tree_sitter_java", "language"),
        "javascript": ("tree_sitter_javascript", "language"),
        "php": ("tree_sitter_php", "language_php"),
        "ruby": ("tree_sitter_ruby", "language"),
        "rust": ("tree_sitter_rust", "language"),
        "typescript": ("tree_sitter_typescript", "language_typescript"),
    }
)
LANGUAGES = ("python", *GRAMMARS)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_NO_TOKENS = (token.NEWLINE, token.NL, token.INDENT, token.DEDENT, token.ENDMARKER, token.ENCODING)
_LITERALS = re.compile("string|char|regex|heredoc")


@dataclasses.dataclass(frozen=True)
class Lexeme:
    """One token: `source[start:end]`, in characters."""

    kind: Kind
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What a language's keywords and symbols are, each sorted."""

    keywords: tuple[str, ...]
    symbols: tuple[str, ...]


def lex(source: str, language: str) -> list[Lexeme]:
    """The tokens of a program in order; white space is what lies between them.

    Raises:
        CannotTransform: the text is no program of that language.
        UserError: the language is not known, or its grammar is not installed.
    """
    lexemes = list(_lex_python(source) if language == "python" else _lex_by_grammar(source, language))
    if not any(lexeme.kind != "comment" for lexeme in lexemes):
        raise CannotTransform("it has no tokens")
    return lexemes


@functools.cache
def inventory(language: str) -> Inventory:
    """A language's keywords and symbols."""
    if language == "python":
        # Without `!`, a token since Python 3.12 and only in f-strings: all versions replace symbols in the same way.
        return Inventory(tuple(sorted(keyword.kwlist)), tuple(sorted(set(token.EXACT_TOKEN_TYPES) - {"!"})))
    grammar = _grammar(language)
    kinds = {
        grammar.node_kind_for_id(n)
        for n in range(grammar.node_kind_count)
        if grammar.node_kind_is_visible(n) and not grammar.node_kind_is_named(n)
    }
    symbols = {
        kind for kind in kinds if kind and re.fullmatch(r"[!-/:-@\[-`{-~]+", kind) and not set(kind) & set("\"'`")
    }
    return Inventory(tuple(sorted(filter(_IDENTIFIER.fullmatch, kinds))), tuple(sorted(symbols)))


def _lex_python(source: str) -> Iterator[Lexeme]:
    starts = [0]
    for line in io.StringIO(source):
        starts.append(starts[-1] + len(line))
    depth = 0  # of f-strings: since Python 3.12 they come in parts, here they are one literal
    literal_start = 0
    try:
        for part in tokenize.generate_tokens(io.StringIO(source).readline):
            name = token.tok_name[part.type]
            start, end = (starts[line - 1] + column for line, column in (part.start, part.end))
            if name == "FSTRING_START":
                literal_start = literal_start if depth else start
                depth += 1
            elif name == "FSTRING_END":
                depth -= 1
                if not depth:
                    yield Lexeme("word", literal_start, end)
            elif part.type not in _NO_TOKENS and not depth:
                if part.type == token.COMMENT:
                    yield Lexeme("comment", start, end)
                elif part.type == token.OP:
                    yield Lexeme("symbol", start, end)
                else:
                    yield Lexeme("keyword" if keyword.iskeyword(part.string) else "word", start, end)
    except (tokenize.TokenError, SyntaxError, IndexError) as error:
        raise CannotTransform(f"cannot be tokenized: {error}") from error


def _lex_by_grammar(source: str, language: str) -> Iterator[Lexeme]:
    grammar = _grammar(language)
    import tree_sitter

    data = source.encode("utf-8")
    tree = tree_sitter.Parser(grammar).parse(data)
    if tree.root_node.has_error:
        raise CannotTransform(f"does not parse as {language}")
    known = inventory(language)
    keywords, symbols = set(known.keywords), set(known.symbols)
    begins = np.frombuffer(data, np.uint8) & 0xC0 != 0x80  # bytes that begin a character
    characters = [0, *np.cumsum(begins).tolist()]  # before each byte
    for node in _leaves(tree.root_node):
        text = data[node.start_byte : node.end_byte].decode("utf-8")
        if not text.strip():
            continue
        if "comment" in node.type:
            kind: Kind = "comment"
        elif not node.is_named and text in keywords:
            kind = "keyword"
        else:
            kind = "symbol" if not node.is_named and text in symbols else "word"
        yield Lexeme(kind, characters[node.start_byte], characters[node.end_byte])


def _leaves(node: Any) -> Iterator[Any]:
    """Tokens below a node: what has no parts, or is a literal or comment, which are one token whatever is in them."""
    stack = [node]
    while stack:
        node = stack.pop()
        if not node.children or (node.is_named and (_LITERALS.search(node.type) or "comment" in node.type)):
            yield node
        else:
            stack.extend(reversed(node.children))


@functools.cache
def _grammar(language: str) -> Any:
    if language not in GRAMMARS:
        raise UserError(f"there is no lexer for the language {language!r}; there are {', '.join(LANGUAGES)}")
    package, function = GRAMMARS[language]
    try:
        import tree_sitter

        return tree_sitter.Language(getattr(importlib.import_module(package), function)())
    except ImportError as error:
        wheel = package.replace("_", "-")
        raise UserError(f"{language} needs its grammar: pip install tree-sitter {wheel} (extra `languages`)") from error
