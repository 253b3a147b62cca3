"""Problems with several solutions each: what logical equivalence is learnt from and tested on.

The file is JSONL, plain or gzip, one problem a line:

    {"problem_id": "two-sum", "language": "python", "solutions": ["def ..", "class ..", ..]}

Other fields and byte order marks are ignored, and line ends of any system are newlines. What stands before a `::` in a
problem's id is its group, without one the id itself; problems of one group share their split. A group is held out for
testing by its hash alone, so that every reader of any file agrees on it: held-out problems never become training data,
and evaluation takes no others unless it is told to.
"""

import dataclasses
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from t5x_code.errors import UserError
from t5x_code.source_code.errors import CannotTransform
from t5x_code.source_code.lexing import lex
from t5x_code.source_code.obfuscation import obfuscate

TEST_FRACTION = 0.2
GROUP_END = "::"
SHINGLE = 5  # tokens
NEAR_DUPLICATE = 0.8  # Jaccard similarity of shingles from which two solutions count as one (ours)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Programs that do the same."""

    problem_id: str
    language: str
    solutions: tuple[str, ...]

    @property
    def group(self) -> str:
        """What the problem shares its split with."""
        return self.problem_id.partition(GROUP_END)[0]


def read_problems(path: epath.PathLike) -> Iterator[Problem]:
    """Reads a file of problems, line by line.

    Raises:
        UserError: the file is missing, or a line is not in the format; names the line.
    """
    file = epath.Path(path)
    try:
        with file.open("rb") as raw, gzip.open(raw) if file.name.endswith(".gz") else raw as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, f"{path} line {number}")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); give a JSONL file of problems") from error


def _parse(line: bytes, where: str) -> Problem:
    try:
        fields: dict[str, Any] = json.loads(line)
        problem_id, language, solutions = fields["problem_id"], fields.get("language", "python"), fields["solutions"]
        if not isinstance(solutions, list):
            raise TypeError("the solutions must be a list")
        if not all(isinstance(text, str) for text in (problem_id, language, *solutions)):
            raise TypeError("problem_id, language and the solutions must be strings")
        if not problem_id.partition(GROUP_END)[0]:
            raise TypeError(f"problem_id must begin with a name, before any {GROUP_END}")
        "".join((problem_id, *solutions)).encode()  # JSON can spell half characters, which no file can hold
        return Problem(problem_id, language, tuple(map(_unified, solutions)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f'{where}: not a problem ({error}); write {{"problem_id": .., "language": .., "solutions": [..]}}'
        ) from error


def _unified(text: str) -> str:
    """Without what editors differ in: what is made of a program has one kind of line end, behind its last line too, and
    so shall the program."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") or not text else f"{text}\n"


def group_number(group: str) -> int:
    """A group's hash, below 2**56: by it a token store, and a model that was trained on it, knows the group."""
    digest = hashlib.blake2b(group.encode("utf-8"), digest_size=16, key=bytes(8)).digest()
    return int.from_bytes(digest[:7], "big")


def is_held_out(number: int) -> bool:
    """Whether problems of a group of this number are for testing only."""
    return number % 2**32 < TEST_FRACTION * 2**32


def solution_hash(source: str, language: str) -> str:
    """Hex name of a program, the same whatever its layout and comments."""
    return hashlib.blake2b("\x1f".join(_tokens(source, language)).encode(), digest_size=8).hexdigest()


def distinct_solutions(problem: Problem, limit: int | None = None) -> list[str]:
    """The solutions that are no near-duplicates of an earlier one, `limit` at most.

    Two programs are near-duplicates when the 5-grams of their tokens, comments, layout and (Python) chosen names aside,
    have a Jaccard similarity of 0.8 or more.
    """
    kept: list[str] = []
    seen: list[set[tuple[str, ...]]] = []
    for solution in problem.solutions:
        if limit is not None and len(kept) == limit:
            break
        shingles = _shingles(solution, problem.language)
        if shingles and all(_jaccard(shingles, other) < NEAR_DUPLICATE for other in seen):
            kept.append(solution)
            seen.append(shingles)
    return kept


def _shingles(source: str, language: str) -> set[tuple[str, ...]]:
    """Of a program that cannot be read: none, so that it is left out."""
    try:
        text = obfuscate(source).text if language == "python" else source
        tokens = [text[x.start : x.end] for x in lex(text, language) if x.kind != "comment"]
    except CannotTransform:
        return set()
    return {tuple(tokens[i : i + SHINGLE]) for i in range(max(1, len(tokens) - SHINGLE + 1))}


def _jaccard(first: set, second: set) -> float:
    return len(first & second) / len(first | second)


def _tokens(source: str, language: str) -> Iterable[str]:
    try:
        return [source[x.start : x.end] for x in lex(source, language) if x.kind != "comment"]
    except CannotTransform:
        return source.split()
