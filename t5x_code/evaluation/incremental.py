"""Incremental problems (arXiv 2402.05783): the signature and the first l lines of the reference's body are given.

A problem's answer is that body. l = 0 .. L - 1 for L lines of it: the whole solution is never given. Sub-problems that
give the same are one: a blank line more tells nothing.
"""

import dataclasses

from t5x_code.evaluation.problems import Problem


def incremental_problems(problem: Problem) -> list[Problem]:
    """The sub-problems, named `task_id/l`; their group is the problem's id."""
    lines = problem.answer.split("\n")  # at no other character that ends lines of text: a literal may hold it
    lines = [f"{line}\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]
    found, seen = [], set()
    for number in range(len(lines)):
        given = "".join(lines[:number])
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
