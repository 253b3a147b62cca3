"""What a source gives: a text, or a text in parts of different kinds. Here stands what a store knows of the parts.

A plain document is a `str`. A document in parts (docstring, signature and body of a function; the codes of one problem)
is a `PartedDocument`: its source declares what its kinds are called (`SourceKind.part_kinds`), each part is tokenized
by itself, and the token store keeps beside the tokens

    part_ends     int64 [Q]   where each part ends in its shard; a document's `eod` follows its last part, in none
    part_kinds    uint8 [Q]   the part's kind, a number below `len(manifest.part_kinds)`
    groups        int64 [D]   a hash of the document's group, 0 without one

which an objective meets as `Piece.part_ends`, `Piece.part_kinds` and `Piece.group`. Documents of one group (solutions
of one problem) always fall into the same split. A part may be empty; a kind may occur any number of times.

A part's text may hold the marks below. They become the control tokens of linearised code, and nothing else does.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence

from t5x_code.tokens.special_tokens import DEDENT_MARK, INDENT_MARK, MARKS, NEW_LINE_MARK


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a document."""

    kind: int  # below 256
    text: str


@dataclasses.dataclass(frozen=True)
class PartedDocument:
    """A document in parts, in the order in which the store holds them."""

    parts: tuple[Part, ...]
    group: str = ""  # documents of one group share a split; such as the problem that codes solve

    @property
    def text(self) -> str:
        """All parts, one after another, each beginning a line."""
        return "\n".join(part.text for part in self.parts)


Document = str | PartedDocument


def text_of(document: Document) -> str:
    """A document's whole text, for what looks at words alone."""
    return document if isinstance(document, str) else document.text


def plain_text(text: str) -> str:
    """A text without its marks: line ends as they were, indentation lost; what words are searched in."""
    return text.replace(NEW_LINE_MARK, "\n").replace(INDENT_MARK, "").replace(DEDENT_MARK, "")


def edit_texts(document: Document, edits: Sequence[Callable[[str], str]]) -> Document:
    """The document with every text of it edited."""
    if isinstance(document, str):
        for edit in edits:
            document = edit(document)
        return document
    parts = (Part(part.kind, edit_texts(part.text, edits)) for part in document.parts)
    return dataclasses.replace(document, parts=tuple(parts))


def to_bytes(document: Document) -> bytes:
    """What is hashed, spooled and compared: equal bytes are duplicates."""
    if isinstance(document, str):
        return document.encode("utf-8")
    parts = [[part.kind, part.text] for part in document.parts]
    return json.dumps({"group": document.group, "parts": parts}, ensure_ascii=False).encode("utf-8")


def from_bytes(data: bytes, parted: bool) -> Document:
    """Inverse of `to_bytes`, for a source whose documents are in parts or not."""
    text = data.decode("utf-8")
    if not parted:
        return text
    fields = json.loads(text)
    return PartedDocument(tuple(Part(kind, text) for kind, text in fields["parts"]), fields["group"])


def holds_marks(texts: Sequence[str]) -> bool:
    """Whether a raw text spells a mark, which it may not."""
    return any(mark in text for text in texts for mark in MARKS)
