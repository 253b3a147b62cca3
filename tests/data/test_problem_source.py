"""Problems become documents of codes: what does the same, what is broken, and never what is held out for testing."""

import ast
import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching.build import build_store
from t5x_code.data.caching.store_fingerprints import what_changed
from t5x_code.data.declarations import SPLITS, SourceDeclaration
from t5x_code.data.document_texts import document_texts
from t5x_code.data.sources import problems, python_stdlib, source
from t5x_code.data.sources.problems import file_documents, library_documents
from t5x_code.data.sources.source import SOURCES
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.objectives.ntp_plus import CODE_KINDS, NtpPlus
from t5x_code.recipes.inputs import prepare_inputs
from t5x_code.recipes.recipe import DataConfig
from t5x_code.source_code.problems import (
    Problem,
    distinct_solutions,
    group_number,
    is_held_out,
    read_problems,
    solution_hash,
)
from t5x_code.tokens import train_bpe


def solution(number: int, way: int, name: str = "total") -> str:
    loops = (
        f"    {name} = {number}\n    for value in values:\n        {name} += value\n    return {name}\n",
        f"    return {number} + sum(value for value in values if value is not None)\n    print(values)\n",
        f"    if not values:\n        return {number}\n    return values[0] + solve(values[1:])\n",
    )
    return f"def solve(values):\n{loops[way]}"


@pytest.fixture(scope="module")
def problem_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    rows = [
        {"problem_id": f"p{n}", "language": "python", "solutions": [solution(n, way) for way in range(3)]}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def kinds_of(document) -> Counter:
    return Counter(CODE_KINDS[part.kind] for part in document.parts)


def test_documents_hold_each_variant_and_no_held_out_problem(problem_file):
    skipped = Counter()
    documents = list(file_documents(SourceDeclaration("problems", str(problem_file)), "text", skipped))
    groups = {document.group for document in documents}
    held_out = {p.problem_id for p in read_problems(problem_file) if is_held_out(group_number(p.group))}
    assert 4 < len(held_out) < 25 and not groups & held_out and len(groups | held_out) == 60
    assert skipped["held out for testing"] == len(held_out)
    for document in documents:
        kinds = kinds_of(document)
        assert kinds["code"] == kinds["obf"] == kinds["equivalent"] == kinds["different"] == 1 and kinds["pos"] == 2
        assert kinds["lsh"] == 3 and all(kinds[kind] == 1 for kind in ("tsh", "kwr", "syr"))
        texts = {CODE_KINDS[part.kind]: part.text for part in document.parts}
        ast.parse(texts["obf"])
        assert "FUNC_0" in texts["obf"] and sorted(texts["lsh"].split("\n")) == sorted(texts["code"].split("\n"))


def test_a_training_solution_that_a_held_out_problem_has_is_left_out(tmp_path):
    names = [f"p{n}" for n in range(60)]
    held_out = next(name for name in names if is_held_out(group_number(name)))
    trained = next(name for name in names if not is_held_out(group_number(name)))
    path = tmp_path / "p.jsonl"
    same = solution(5, 0)
    rows = [(held_out, [same.replace("    ", "  ") + "# a comment\n"]), (trained, [same, solution(5, 2)])]
    path.write_text("".join(json.dumps({"problem_id": p, "solutions": s}) + "\n" for p, s in rows))
    skipped = Counter()
    (document,) = file_documents(SourceDeclaration("problems", str(path)), "text", skipped)
    assert document.parts[0].text == solution(5, 2) and skipped["solutions of a held-out problem"] == 1


def test_near_duplicates_are_one():
    renamed = solution(1, 0, name="result")
    problem = Problem("p", "python", (solution(1, 0), renamed, solution(1, 1), "def f(:", solution(1, 0) + "# again\n"))
    assert distinct_solutions(problem) == [solution(1, 0), solution(1, 1)]
    assert solution_hash(solution(1, 0), "python") != solution_hash(renamed, "python")


def test_the_store_keeps_groups_and_splits_by_problem(problem_file, tmp_path):
    (task,) = declaration_for(f"problems:{problem_file}").tasks
    tokenizer = train_bpe.train([solution(n, way) for n in range(30) for way in range(3)], 400, 2)
    folder = build_store(task, tokenizer, tmp_path, show_progress=False)
    groups = {split: set(TokenStore.open(folder / split).groups(0).tolist()) for split in SPLITS}
    assert not groups["train"] & groups["validation"]
    known = {group_number(f"p{n}") for n in range(60)}
    assert groups["train"] | groups["validation"] == {number for number in known if not is_held_out(number)}
    texts = list(document_texts(TokenStore.open(folder / "train"), tokenizer))
    assert len(set(texts)) == len(texts) and all(text.startswith("def solve(values):") for text in texts)
    assert set(texts) <= {solution(n, way) for n in range(60) for way in range(3)}


def test_a_store_that_holds_a_held_out_problem_is_not_trained_on(problem_file, tmp_path, monkeypatch):
    """As one that was made without this project's source could: here by a source that holds nothing out."""
    monkeypatch.setattr(problems, "is_held_out", lambda number: False)
    (task,) = declaration_for(f"problems:{problem_file}").tasks
    tokenizer = train_bpe.train([solution(n, way) for n in range(30) for way in range(3)], 400, 2)
    build_store(task, tokenizer, tmp_path, show_progress=False)
    config = DataConfig(f"problems:{problem_file}", ((NtpPlus(), 1.0),), stores=str(tmp_path), length=512)
    with pytest.raises(UserError, match="held out for testing; make the store again"):
        prepare_inputs(config, 400)


def test_library_functions_are_held_out_by_module(monkeypatch):
    some = [file for file in python_stdlib.files(None) if file.name.startswith(("asyncio/", "email/", "json/"))]
    monkeypatch.setattr(python_stdlib, "files", lambda source: some)
    skipped = Counter()
    source = SourceDeclaration("python_functions", options=(("limit", "150"),))
    documents = list(library_documents(source, "text", skipped))
    assert len(documents) > 60 and skipped["held out for testing"] > 5
    assert all(not is_held_out(group_number(document.group)) for document in documents)
    assert {document.group.endswith(".py") for document in documents} == {True}
    assert all(kinds_of(document)["pos"] == 0 for document in documents)
    assert np.mean([kinds_of(document)["obf"] for document in documents]) > 0.8


def test_another_version_of_the_transformations_makes_a_store_stale(problem_file, tmp_path, monkeypatch):
    tokenizer = train_bpe.train([solution(0, 0)], vocab_size=300, num_masks=2)
    (task,) = declaration_for(f"problems:{problem_file}").tasks
    manifest = TokenStore.open(build_store(task, tokenizer, tmp_path, show_progress=False) / SPLITS[0]).manifest
    assert what_changed(manifest, task, tokenizer) == []
    kind = dataclasses.replace(SOURCES["problems"], transformations=("code_variants@999",))
    monkeypatch.setattr(source, "SOURCES", {**SOURCES, "problems": kind})
    assert what_changed(manifest, task, tokenizer) == ["the preprocessors or the source's transformations"]
    assert source.SOURCES["python_functions"].transformations == problems.TRANSFORMATIONS


def test_line_ends_and_byte_order_marks_make_no_difference(tmp_path):
    text = solution(1, 0)
    others = (text.replace("\n", "\r\n"), text.replace("\n", "\r"), "\ufeff" + text)
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"problem_id": "a", "solutions": [text, *others]}) + "\n")
    (problem,) = read_problems(path)
    assert set(problem.solutions) == {text}


BAD_LINES = ("{", "[1]", "[" * 100_000, '{"problem_id": "a"}', '{"problem_id": 3, "solutions": ["x"]}')
BAD_TEXTS = ('{"problem_id": "a", "solutions": "[]"}', '{"problem_id": "a", "solutions": ["\\ud83d"]}')


@pytest.mark.parametrize("line", [*BAD_LINES, *BAD_TEXTS])
def test_a_line_that_is_no_problem_is_named(tmp_path, line):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"problem_id": "a", "solutions": ["x = 1"]}) + "\n" + line + "\n")
    with pytest.raises(UserError, match=r"p\.jsonl line 2: not a problem"):
        list(read_problems(path))
