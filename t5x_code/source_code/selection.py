"""Logically Equivalent Code Selection (arXiv 2404.08885): a query, programs that do the same, others that do not.

Accepted are another solution of the query's problem (`pos`) and the query obfuscated (`obf`); rejected are solutions of
other problems of about the query's length (`neg`) and the query with its lines shuffled (`lsh`). The probes `tsh`,
`kwr`, `syr` and `obf_lsh` (the obfuscated query with its lines shuffled: laid out like `obf`, but broken) only have
their similarity looked at. Which of several candidates is taken, and how many, is ours.
"""

import bisect
import dataclasses
from collections.abc import Sequence

from t5x_code.randomness import keyed_generator
from t5x_code.source_code.errors import CannotTransform
from t5x_code.source_code.problems import Problem
from t5x_code.source_code.transformations import transform

ACCEPTED, REJECTED = ("pos", "obf"), ("neg", "lsh")
SETTINGS = tuple((accepted, rejected) for accepted in ACCEPTED for rejected in REJECTED)
# What a model that is taught equivalence as text says after a query and a candidate (ours).
EQUIVALENT_TEXT, DIFFERENT_TEXT = "\n# equivalent\n", "\n# not equivalent\n"
PROBES = ("tsh", "kwr", "syr", "obf_lsh")


@dataclasses.dataclass(frozen=True)
class SelectionItem:
    """One query and its candidates by kind; a kind that the query has none of is absent."""

    problem_id: str
    language: str
    query: str
    candidates: dict[str, str]  # pos, obf, neg, lsh and the probes
    others: tuple[str, ...]  # more solutions of other problems, the closest in length first; holds `neg` first


def selection_items(problems: Sequence[Problem], num_others: int = 15, seed: int = 0) -> list[SelectionItem]:
    """One item per problem: its first solution is the query.

    Args:
        problems: each with its solutions, near-duplicates removed.
        num_others: solutions of other problems per item, all of the query's language.
        seed: of permutations; each item's draws depend on it, the problem and the query alone.
    """
    items = []
    pools = {language: _Pool(problems, language) for language in {problem.language for problem in problems}}
    for problem in problems:
        if not problem.solutions:
            continue
        query = problem.solutions[0]
        candidates = variants(query, problem.language, ("obf", "lsh", *PROBES), seed)
        if len(problem.solutions) > 1:
            candidates["pos"] = problem.solutions[1]
        others = pools[problem.language].closest(problem, len(query), num_others)
        if others:
            candidates["neg"] = others[0]
        items.append(SelectionItem(problem.problem_id, problem.language, query, candidates, others))
    return items


def variants(source: str, language: str, kinds: Sequence[str], seed: int) -> dict[str, str]:
    """The wanted variants of a program by kind, without those that cannot be made of it."""
    made = {}
    for kind in kinds:
        rng = keyed_generator(seed, kind, source)  # a variant does not depend on what was made before it
        try:
            text = source
            for step in kind.split("_"):
                text = transform(step, text, language, rng)
        except CannotTransform:
            continue
        made[kind] = text
    return made


class _Pool:
    """All solutions of a language, sorted by length."""

    def __init__(self, problems: Sequence[Problem], language: str):
        texts = {
            (len(solution), solution, problem.problem_id)
            for problem in problems
            if problem.language == language
            for solution in problem.solutions
        }
        self._sorted = sorted(texts)
        self._lengths = [length for length, _, _ in self._sorted]

    def closest(self, problem: Problem, length: int, count: int) -> tuple[str, ...]:
        """Solutions of other problems, one per problem, by how close their length is."""
        right = bisect.bisect_left(self._lengths, length)
        left = right - 1
        found: dict[str, str] = {}
        while len(found) < count and (left >= 0 or right < len(self._sorted)):
            take_left = right == len(self._sorted) or (
                left >= 0 and length - self._lengths[left] <= self._lengths[right] - length
            )
            _, text, problem_id = self._sorted[left if take_left else right]
            left, right = (left - 1, right) if take_left else (left, right + 1)
            if problem_id != problem.problem_id and text not in problem.solutions:
                found.setdefault(problem_id, text)
        return tuple(found.values())
