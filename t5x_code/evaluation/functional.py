"""Evaluations whose answers are run: draw samples or take given ones, run each in a sandbox, estimate pass@k.

Programs run while the model writes the next ones.
"""

import contextlib
import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from tqdm import tqdm

from t5x_code.errors import UserError
from t5x_code.evaluation.incremental import incremental_problems
from t5x_code.evaluation.intervals import bootstrap_interval
from t5x_code.evaluation.pass_at_k import Counts, each_pass_at_k, incremental_pass_at_k, usable_k
from t5x_code.evaluation.problems import Problem, read_humaneval, read_infilling, read_mbpp, read_multilingual
from t5x_code.evaluation.protocols import PROTOCOLS, Protocol, resolve_protocol
from t5x_code.evaluation.request import Request, Results
from t5x_code.evaluation.sample_problems import draw_samples, made_with, plan_draws, with_lengths_of
from t5x_code.evaluation.samples_file import SamplesFile, read_samples
from t5x_code.evaluation.sandbox.pool import SandboxPool
from t5x_code.evaluation.sandbox.sandbox import Outcome
from t5x_code.progress import progress_bar
from t5x_code.terminal import warn


def evaluate_humaneval(request: Request) -> Results:
    """HumanEval (arXiv 2107.03374)."""
    return _evaluate(request, read_humaneval(request.data), "greedy")


def evaluate_mbpp(request: Request) -> Results:
    """MBPP (arXiv 2108.07732), its test split; `--variant=all` takes every problem.

    With `--variant=functions` a problem is a signature and its description, as arXiv 2402.05783 gives it.
    """
    as_functions = request.variant == "functions"
    problems = read_mbpp(request.data, request.variant == "all", as_functions)
    return _evaluate(request, problems, "greedy" if as_functions else "mbpp")


def evaluate_infilling(request: Request) -> Results:
    """HumanEval-Infilling (arXiv 2207.14255): single-line, multi-line, random-span or light, as the file is."""
    return _evaluate(request, read_infilling(request.data), "infill")


def evaluate_multilingual(request: Request) -> Results:
    """HumanEval-X (arXiv 2303.17568), for languages whose interpreter is installed."""
    return _evaluate(request, read_multilingual(request.data), "greedy")


def evaluate_incremental(request: Request) -> Results:
    """Incremental pass@k (arXiv 2402.05783) over HumanEval, or over MBPP with `--variant=mbpp`."""
    is_mbpp = request.variant == "mbpp"
    problems = read_mbpp(request.data, as_functions=True) if is_mbpp else read_humaneval(request.data)
    return _evaluate(request, [part for problem in problems for part in incremental_problems(problem)], "greedy")


def _evaluate(request: Request, problems: Sequence[Problem], default_protocol: str) -> Results:
    known = [problem.task_id for problem in problems]
    problems = _first(problems, request.limit)
    name = request.protocol or default_protocol
    protocol = resolve_protocol(name, request.sampled)
    if protocol.strips_prompts:
        problems = [problem.stripped() for problem in problems]
    problems = [dataclasses.replace(p, preamble=protocol.preamble) if p.language == "python" else p for p in problems]
    with SandboxPool(request.execution) as pool, contextlib.closing(_Judge(pool, problems, request)) as judge:
        _warn_of_own_answer(pool, problems)
        started = time.monotonic()
        if request.samples is not None:
            samples = read_samples(request.samples, known)
            for problem in problems:
                judge.take([(problem.task_id, completion) for completion in samples.get(problem.task_id, ())])
            facts: dict[str, Any] = {"samples": request.samples}
        else:
            facts = _draw(request, problems, name, protocol, judge)
        drawn = time.monotonic()
        outcomes = judge.outcomes()
    ks = protocol.ks if request.samples is None else sorted({k for p in PROTOCOLS.values() for k in p.ks})
    timings = {"draw_seconds": drawn - started, "judge_seconds": time.monotonic() - drawn}
    return {
        **summarise(problems, outcomes, ks, request.sampled.seed),
        **facts,
        "isolation": pool.isolation,
        "limits": dataclasses.asdict(request.execution.limits),
        "timings": timings,
    }


def _warn_of_own_answer(pool: SandboxPool, problems: Sequence[Problem]) -> None:
    """Says so where the first own answer fails, as all programs do whose tests import what the sandbox lacks: a score
    of 0 would be taken for the model's."""
    problem = next((problem for problem in problems if problem.answer.strip()), None)
    if problem is None:
        return
    outcome = pool.submit(problem.program(problem.answer)).result()
    if not outcome.passed:
        warn(
            f"the benchmark's own answer to {problem.task_id} does not pass here ({outcome.result}); others may fail "
            "for the same reason"
        )


def _first(problems: Sequence[Problem], limit: int | None) -> list[Problem]:
    """The first problems; the parts of one count as one."""
    taken = set(list(dict.fromkeys(p.group or p.task_id for p in problems))[:limit])
    return [problem for problem in problems if (problem.group or problem.task_id) in taken]


def _draw(
    request: Request, problems: Sequence[Problem], name: str, protocol: Protocol, judge: "_Judge"
) -> dict[str, Any]:
    """Draws what is missing from the samples file, and hands all of it to the judge as it comes."""
    model = request.require_model()
    protocol = with_lengths_of(model, protocol, request.sampled)
    draws = plan_draws(model, problems, protocol, request.sampled)
    settings = made_with(model, draws, name)
    with SamplesFile(request.keep_samples, settings) as file:
        done = {task_id for task_id, texts in file.samples.items() if len(texts) >= protocol.num_samples}
        for task_id in done:
            judge.take([(task_id, text) for text in file.samples[task_id]])
        draw_samples(model, draws, file, done, judge.take)
    return {"protocol": name, "made_with": settings, "truncated_prompts": draws.truncated_prompts}


class _Judge:
    """Sends programs to the pool and counts what comes back, on a progress bar."""

    def __init__(self, pool: SandboxPool, problems: Sequence[Problem], request: Request):
        self._pool, self._problems = pool, {problem.task_id: problem for problem in problems}
        self._futures: dict[str, list[Future[Outcome]]] = {}
        self._passed = self._ended = 0
        self._failure: BaseException | None = None  # the first, such as a sandbox that cannot be opened
        self._shown = request.show_progress

    @functools.cached_property
    def _bar(self) -> tqdm:
        """Made when there is something to count: what goes wrong before is not told between two empty bars."""
        return progress_bar(total=0, unit="program", shown=self._shown)

    def take(self, samples: Sequence[tuple[str, str]]) -> None:
        """Queues samples (task id, completion); raises what went wrong with earlier ones, before more are drawn."""
        if self._failure is not None:
            raise self._failure
        if samples:
            self._bar.total += len(samples)
        for task_id, completion in samples:
            future = self._pool.submit(self._problems[task_id].program(completion))
            self._futures.setdefault(task_id, []).append(future)
            future.add_done_callback(self._count)

    def outcomes(self) -> dict[str, list[Outcome]]:
        """By task id, in the order of the samples, once all are there."""
        return {task_id: [future.result() for future in futures] for task_id, futures in self._futures.items()}

    def close(self) -> None:
        """Ends the bar."""
        if "_bar" in vars(self):
            self._bar.close()

    def _count(self, future: Future[Outcome]) -> None:
        failure = None if future.cancelled() else future.exception()
        with self._bar.get_lock():
            self._failure = self._failure or failure
            self._ended += 1
            self._passed += not future.cancelled() and failure is None and future.result().passed
            self._bar.set_postfix_str(f"{self._passed / self._ended:.1%} passed", refresh=False)
            self._bar.update(1)


def summarise(problems: Sequence[Problem], outcomes: dict[str, list[Outcome]], ks: Sequence[int], seed: int) -> Results:
    """pass@k with its interval, and what came of each problem.

    Problems without a sample count as not attempted: they are left out of the means and reported.

    Raises:
        UserError: no problem has a sample.
    """
    attempted = [problem for problem in problems if outcomes.get(problem.task_id)]
    if not attempted:
        raise UserError("no problem has a sample; nothing to score")
    counts = {p.task_id: _counts(outcomes[p.task_id]) for p in attempted}
    metrics, intervals = {}, {}
    for name, values_P, weights_P in _pass_at(attempted, counts, ks):
        metrics[name] = float(np.average(values_P, weights=weights_P))
        intervals[name] = bootstrap_interval(values_P, seed, weights_P)
    reasons = Counter(_kind(outcome.result) for results in outcomes.values() for outcome in results)
    return {
        "metrics": metrics,
        "confidence_95": intervals,
        "num_problems": len(attempted),
        "not_attempted": [p.task_id for p in problems if p.task_id not in counts],
        "num_samples": sum(n for n, _ in counts.values()),
        "results": dict(reasons.most_common()),
        "problems": {
            task_id: {"samples": n, "passed": c, "results": [outcome.result for outcome in outcomes[task_id]]}
            for task_id, (n, c) in counts.items()
        },
    }


def _pass_at(
    problems: Sequence[Problem], counts: dict[str, Counts], ks: Sequence[int]
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Names of metrics with the value of each problem and its weight in the mean, [P]; None where all weigh the same.

    The mean over all sub-problems is one over problems that weigh as many as they have.
    """
    groups: dict[str, list[Counts]] = {}
    for problem in problems:
        groups.setdefault(problem.group or problem.task_id, []).append(counts[problem.task_id])
    is_incremental = any(problem.group for problem in problems)
    for k in usable_k(list(counts.values()), ks):
        if is_incremental:
            values_P = incremental_pass_at_k(groups, k)
            yield f"incremental_pass@{k}", values_P, None
            yield f"macro_pass@{k}", values_P, np.array([len(parts) for parts in groups.values()])
        else:
            yield f"pass@{k}", each_pass_at_k(list(counts.values()), k), None


def _counts(outcomes: Sequence[Outcome]) -> Counts:
    return len(outcomes), sum(outcome.passed for outcome in outcomes)


def _kind(result: str) -> str:
    """A result without what is particular to it: `failed: ValueError`."""
    return ":".join(result.split(":")[:2])
