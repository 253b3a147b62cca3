"""HumanEval-X: programs of other languages, run by their own interpreters."""

import gzip
import json
import os
import shutil

import pytest

from t5x_code.errors import UserError
from t5x_code.evaluation.problems import read_multilingual
from t5x_code.inference.infilling import at_strings


def skip_without(command):
    if shutil.which(command, path=os.defpath) is None:
        pytest.skip(f"{command} is not installed")


def only_problem(path, **record):
    """The problem of a HumanEval-X file with one line, gzipped where the path says so."""
    line = (json.dumps(record) + "\n").encode()
    path.write_bytes(gzip.compress(line) if path.suffix == ".gz" else line)
    (problem,) = read_multilingual(str(path))
    return problem


def test_a_parameter_named_as_the_program_hides_it_in_its_function_alone(pool, tmp_path):
    """As HumanEval-X writes its Python tests."""
    problem = only_problem(
        tmp_path / "python.jsonl",
        task_id="Python/0",
        prompt="from typing import List\n\n\ndef add(xs: List[int]) -> int:\n",
        canonical_solution="    return sum(xs)\n",
        test="def check(add):\n    assert add([1, 2]) == 3\n\ncheck(add)\n",
    )
    answers = {problem.answer: True, "    return 0\n": False}
    assert {text: pool.submit(problem.program(text)).result().passed for text in answers} == answers


def test_other_languages(pool, tmp_path):
    record = {
        "task_id": "JavaScript/0",
        "prompt": "const add = (a, b) => {\n",
        "canonical_solution": "  return a + b;\n}\n",
        "test": "const testAdd = () => {\n  console.assert(add(1, 2) === 3)\n}\ntestAdd()\n",
    }
    with pytest.raises(UserError, match=r"Cobol/0: .* choose one of python, javascript"):
        only_problem(tmp_path / "cobol.jsonl", **{**record, "task_id": "Cobol/0"})
    skip_without("node")
    problem = only_problem(tmp_path / "js.jsonl.gz", **record)
    answers = {problem.answer: True, "  return a - b;\n}\n": False, "  process.exit(0);\n}\n": False, "((": False}
    assert {text: pool.submit(problem.program(text)).result().passed for text in answers} == answers
    for more in ("function sub(a, b) {\n  return a -", "// Multiply\nconst mul =", "const NONCE = 0;"):
        text = f"{problem.answer}\n{more}"
        assert text[: at_strings(problem.stops)(text)] == problem.answer
    kept = "  const NONCE = 0;\n  return a + b + NONCE;\n}\n"
    tricks = {kept: True, "  return 0;\n}\nconsole.log('\\nNONCE'); process.exit(0)\n": False}
    assert {text: pool.submit(problem.program(text)).result().passed for text in tricks} == tricks


def test_perl_answers_end_before_the_next_one(pool, tmp_path):
    skip_without("perl")
    problem = only_problem(
        tmp_path / "perl.jsonl",
        task_id="perl/0",
        prompt="sub add {\n  my ($a, $b) = @_;\n",
        canonical_solution="  return $a + $b;\n}\n",
        test="die unless add(1, 2) == 3;\n",
    )
    for more in ("sub mul {\n  my ($a", "# Multiply"):
        text = f"{problem.answer}\n{more}"
        assert text[: at_strings(problem.stops)(text)] == problem.answer
    answers = {problem.answer: True, '  0 }\nprint "\\nNONCE\\n"; exit 0;\n': False}
    assert {text: pool.submit(problem.program(text)).result().passed for text in answers} == answers


@pytest.mark.parametrize(("language", "command"), [("JavaScript", "node"), ("Perl", "perl")])
def test_a_language_whose_interpreter_is_not_there_is_refused(tmp_path, monkeypatch, language, command):
    monkeypatch.setattr(shutil, "which", lambda name, path: None if (name, path) == (command, os.defpath) else name)
    record = {"prompt": "", "canonical_solution": "", "test": ""}
    with pytest.raises(
        UserError, match=rf"x\.jsonl: .* are run by {command}, .* looks for in {os.defpath} .*; install"
    ):
        only_problem(tmp_path / "x.jsonl", task_id=f"{language}/0", **record)
    only_problem(tmp_path / "x.jsonl", task_id="Python/0", **record)
