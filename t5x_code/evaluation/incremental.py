"""Incremental problems (arXiv 2402.05783): the signature and the first l lines of the reference's body are given.

l = 0 .. L - 1 for a body of L lines: the whole solution is never given. Sub-problems that give the same are one: a
blank line more tells nothing.
"""

import dataclasses

from t5x_code.evaluation.problems import Problem
from t5x_code.source_code.functions import extract_functions


def incremental_problems(problem: Problem) -> list[Problem]:
    """The sub-problems, named `task_id/l`; their group is the problem's id."""
    before, lines = split_answer(problem)
    found, seen = [], set()
    for number in range(len(lines)):
        given = "".join([before, *lines[:number]])
        rest = "".join(lines[number:])
        if given.rstrip() in seen or not rest.strip():
            continue
        seen.add(given.rstrip())
        found.append(
            dataclasses.replace(
                problem,
                task_id=f"{problem.task_id}/{number}",
                prompt=problem.prompt + given,
                answer=rest,
                group=problem.task_id,
            )
        )
    return found


def split_answer(problem: Problem) -> tuple[str, list[str]]:
    """What of the answer is given anyway, and its body's lines.

    An answer that follows its signature (HumanEval) is all body. Of one that is a program (MBPP), everything up to the
    body of the last function that the tests call is given.
    """
    functions = [span for span in extract_functions(problem.answer) if span.name in problem.from_program]
    if not functions:
        return "", problem.answer.splitlines(keepends=True)
    body_start = functions[-1].body_start
    return problem.answer[:body_start], problem.answer[body_start:].splitlines(keepends=True)
