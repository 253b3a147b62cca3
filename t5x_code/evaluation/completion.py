"""Completion of the next line of held-out code: exact match and edit similarity.

The model is shown a document up to the end of a line and writes on; the next line with anything on it is compared with
the document's own, white space at both ends aside. The newline between them is left to the model: many
tokenizers hold it in one token with the indentation that follows. Which lines are asked for is fixed by the seed.
"""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from t5x_code.errors import UserError
from t5x_code.evaluation.edit_similarity import edit_similarity
from t5x_code.evaluation.intervals import bootstrap_interval
from t5x_code.evaluation.request import Request, Results
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import Completion, TextModel, complete
from t5x_code.inference.sampling import Sampling
from t5x_code.progress import progress_bar

LINES_PER_DOCUMENT = 2
MIN_CHARACTERS = 5  # of a line that is asked for: a lone bracket says little
NUM_LINES = 200
LINE_TOKENS = 64  # of an answer, at most
_NEXT_LINE = re.compile(r"[^\n]*\n\s*(\S[^\n]*)(\n|\Z)")  # the line that the prompt ends in is ended first


@dataclasses.dataclass(frozen=True)
class LineProblem:
    """A line to guess."""

    prompt: str  # up to the end of the line before, its newline left out
    line: str  # stripped


def evaluate_completion(request: Request) -> Results:
    """Guesses lines of held-out documents greedily, or as the request says.

    Returns:
        `exact_match` and `edit_similarity` over all lines, with bootstrap intervals, and each line's.

    Raises:
        UserError: no model, no room for a prompt, or no line to ask for.
    """
    model, sampled = request.require_model(), request.sampled
    context = model.config.max_length
    max_new_tokens = sampled.max_new_tokens or min(LINE_TOKENS, context // 2)
    room = context - max_new_tokens - len(model.begin)
    if room < 1:
        raise UserError(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the model's context of {context}; lower it"
        )
    problems = list(find_lines(request.require_held_out(), model, room, sampled.seed, request.limit or NUM_LINES))
    if not problems:
        raise UserError("the held-out documents have no line to complete; give --data with longer ones")
    generation = GenerationConfig(
        max_new_tokens,
        Sampling(sampled.temperature or 0.0, sampled.top_k or 0, sampled.top_p or 1.0),
        seed=sampled.seed,
        batch_size=sampled.batch_size,
    )
    prompts = [problem.prompt for problem in problems]
    with progress_bar(total=len(problems), unit="line", shown=request.show_progress) as bar:

        def count(answers: dict[int, list[Completion]]) -> None:
            bar.update(len(answers))

        written = complete(model, prompts, generation, stop=after_next_line, on_answers=count)
    guesses = [next_line(samples[0].text) for samples in written]
    exact_P = np.array([guess == problem.line for guess, problem in zip(guesses, problems, strict=True)], float)
    similar_P = np.array([edit_similarity(guess, p.line) for guess, p in zip(guesses, problems, strict=True)])
    return {
        "metrics": {"exact_match": float(exact_P.mean()), "edit_similarity": float(similar_P.mean())},
        "confidence_95": {
            "exact_match": bootstrap_interval(exact_P, sampled.seed),
            "edit_similarity": bootstrap_interval(similar_P, sampled.seed),
        },
        "num_problems": len(problems),
        "lines": [
            {"line": p.line, "guess": guess, "edit_similarity": float(similar)}
            for p, guess, similar in zip(problems, guesses, similar_P, strict=True)
        ],
    }


def after_next_line(text: str) -> int | None:
    """Stops once a whole line with anything on it is written."""
    found = _NEXT_LINE.match(text)
    return found.end() if found and found[2] else None


def next_line(text: str) -> str:
    """The first line with anything on it after the one that the text begins in, stripped; empty if there is none."""
    found = _NEXT_LINE.match(text)
    return found[1].strip() if found else ""


def find_lines(documents: Iterator[str], model: TextModel, room: int, seed: int, most: int) -> Iterator[LineProblem]:
    """Lines to ask for, the same ones for the same documents and seed.

    Args:
        documents: texts.
        model: its tokenizer measures prompts.
        room: tokens that a prompt may have, 1 or more; whole lines are left out at its beginning until it fits.
        seed: of the choice of lines.
        most: lines at most.
    """
    found = 0
    for number, document in enumerate(documents):
        lines = document.split("\n")
        candidates = [at for at in range(1, len(lines)) if len(lines[at].strip()) >= MIN_CHARACTERS]
        rng = np.random.default_rng([seed, number])
        for at in sorted(rng.permutation(candidates)[:LINES_PER_DOCUMENT]) if candidates else ():
            prompt = _fitting(lines[:at], model, room)
            if not prompt.strip():
                continue
            yield LineProblem(prompt, lines[at].strip())
            found += 1
            if found == most:
                return


def _fitting(lines: list[str], model: TextModel, room: int) -> str:
    """The last lines that fit."""
    lines = lines[-room:]
    while lines:
        num_tokens = len(model.tokenizer.encode_prompt("\n".join(lines)))
        if num_tokens <= room:
            break
        # A line at a time would encode a long document hundreds of times.
        lines = lines[max(1, len(lines) * (num_tokens - room) // (2 * num_tokens)) :]
    return "\n".join(lines)
