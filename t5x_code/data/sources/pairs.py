"""Docstring-code pairs: the running interpreter's standard library, or lines `{"docstring": .., "code": ..}` of JSON.

A pair is a document of three parts, in the order docstring, signature, body, with newlines and indentation as marks.
"""

from collections import Counter
from collections.abc import Iterator

from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.document import Part, PartedDocument, holds_marks
from t5x_code.data.preprocessors import normalize_newlines
from t5x_code.data.sources import jsonl, python_stdlib
from t5x_code.data.sources.files import read_text
from t5x_code.objectives.text_to_code import BODY, DOCSTRING, SIGNATURE
from t5x_code.source_code.linearisation import linearise, linearise_function
from t5x_code.source_code.pairs import FunctionPair, extract_pairs, split_code
from t5x_code.tokens.special_tokens import MARKS


def library_documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[PartedDocument]:
    """The pairs of the standard library's modules."""
    for file in python_stdlib.files(source):
        for text in read_text(file.path, skipped):
            for pair in extract_pairs(normalize_newlines(text), skipped):
                yield from _document(pair, skipped)


def jsonl_documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[PartedDocument]:
    """One pair per line. Of code that is one function with a docstring of its own, that docstring is taken out."""
    fields = (source.option("docstring", "docstring"), source.option("code", "code"))
    for docstring, code in jsonl.fields(source, fields, skipped):
        code = normalize_newlines(code)  # before the lines become marks
        signature, body = split_code(code if code.endswith("\n") else code + "\n")
        yield from _document(FunctionPair(normalize_newlines(docstring), signature, body), skipped)


def _document(pair: FunctionPair, skipped: Counter) -> Iterator[PartedDocument]:
    if holds_marks((pair.docstring, pair.signature, pair.body)):
        skipped["control characters"] += 1
        return
    if not (pair.signature + pair.body).strip():
        skipped["no code"] += 1
        return
    signature, body = linearise_function(pair.signature, pair.body, *MARKS)
    yield PartedDocument(
        (Part(DOCSTRING, linearise(pair.docstring, *MARKS)), Part(SIGNATURE, signature), Part(BODY, body))
    )
