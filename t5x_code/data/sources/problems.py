"""Codes that do the same and codes that are broken: `problems:FILE.jsonl`, or the functions of the standard library.

A document is one solution with what NTP+ (arXiv 2404.08885) needs beside it, each a part of a kind of
`objectives.ntp_plus.CODE_KINDS`: other solutions of its problem, itself obfuscated, itself broken in several ways. All
are made here once, so that training needs no parser. Its group is its problem's. Problems that are held out for
testing, and solutions that a held-out problem has too, are left out and counted.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator

from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.document import Part, PartedDocument, holds_marks
from t5x_code.data.sources import python_stdlib
from t5x_code.data.sources.files import SourceFile, find_files, read_text
from t5x_code.errors import UserError
from t5x_code.objectives.ntp_plus import CODE_KINDS
from t5x_code.source_code.library import function_problems
from t5x_code.source_code.problems import (
    Problem,
    distinct_solutions,
    group_number,
    is_held_out,
    read_problems,
    solution_hash,
)
from t5x_code.source_code.selection import DIFFERENT_TEXT, EQUIVALENT_TEXT, variants

SUFFIXES = (".jsonl", ".jsonl.gz")
MAX_SOLUTIONS = 16  # of a problem that become queries
MAX_POSITIVES = 3  # other solutions beside a query
LINE_SHUFFLES = 3
LIBRARY_FUNCTIONS = 3000  # a sample by hash: the whole library would take minutes
SEED = 0
# Of what is made of the programs (source_code/transformations.py), in a store's fingerprint. A change of behaviour is a
# new version.
TRANSFORMATIONS = ("code_variants@3",)


def files(source: SourceDeclaration) -> list[SourceFile]:
    """The pattern's files, sorted by name."""
    return find_files(source.path, SUFFIXES)


def file_documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[PartedDocument]:
    """The problems of JSONL files, in the format of source_code/problems.py."""

    def problems() -> Iterator[Problem]:
        for file in files(source):
            yield from read_problems(file.path)

    yield from _documents(problems, _limit(source), skipped)


def library_documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[PartedDocument]:
    """A sample of the standard library's functions."""
    modules = [(file.name, text) for file in python_stdlib.files(source) for text in read_text(file.path, skipped)]
    problems = list(function_problems((name, text.replace("\r\n", "\n")) for name, text in modules))
    yield from _documents(lambda: iter(problems), _limit(source) or LIBRARY_FUNCTIONS, skipped)


def _limit(source: SourceDeclaration) -> int | None:
    """The option `limit`: at most so many problems, those of lowest hash."""
    text = source.option("limit", "")
    if text and not text.isdecimal():
        raise UserError(f"{source.kind}: limit={text} is no number of problems")
    return int(text) if text else None


def _documents(
    problems: Callable[[], Iterator[Problem]], limit: int | None, skipped: Counter
) -> Iterator[PartedDocument]:
    held_out = {
        solution_hash(solution, problem.language)
        for problem in problems()
        if is_held_out(group_number(problem.group))
        for solution in problem.solutions
    }
    for problem in _sample(problems(), limit):
        if is_held_out(group_number(problem.group)):
            skipped["held out for testing"] += 1
            continue
        solutions = distinct_solutions(problem, MAX_SOLUTIONS)
        kept = [text for text in solutions if solution_hash(text, problem.language) not in held_out]
        skipped["solutions of a held-out problem"] += len(solutions) - len(kept)
        for number in range(len(kept)):
            yield from _document(problem, kept, number, skipped)


def _sample(problems: Iterator[Problem], limit: int | None) -> Iterator[Problem]:
    """`limit` problems of lowest hash, or all as they come."""
    if limit is None:
        yield from problems
        return
    numbered = enumerate(problems)
    lowest = heapq.nsmallest(limit, ((group_number(p.problem_id), number, p) for number, p in numbered))
    yield from (problem for _, _, problem in lowest)


def _document(problem: Problem, solutions: list[str], number: int, skipped: Counter) -> Iterator[PartedDocument]:
    query = solutions[number]
    others = [solutions[(number + step) % len(solutions)] for step in range(1, len(solutions))][:MAX_POSITIVES]
    made = [("code", query), *(("pos", text) for text in others)]
    made += variants(query, problem.language, ("obf", "lsh", "tsh", "kwr", "syr"), SEED).items()
    for again in range(1, LINE_SHUFFLES):
        made += variants(query, problem.language, ("lsh",), SEED + again).items()
    made += [("equivalent", EQUIVALENT_TEXT), ("different", DIFFERENT_TEXT)]
    kinds = {kind for kind, _ in made}
    if not kinds & {"pos", "obf"} or not kinds & {"lsh", "tsh", "kwr", "syr"}:
        skipped["no accepted or no broken variant"] += 1
    elif holds_marks([text for _, text in made]):
        skipped["control characters"] += 1
    else:
        yield PartedDocument(tuple(Part(CODE_KINDS.index(kind), text) for kind, text in made), problem.group)
