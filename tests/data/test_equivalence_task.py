"""The SeqIO task of selection: the candidates of held-out problems, and a metric that SeqIO itself calls."""

import json

import pytest

seqio = pytest.importorskip("seqio")

from t5x_code.data.equivalence_task import register_logic_equivalence, selection_accuracy  # noqa: E402
from t5x_code.source_code.problems import group_number, is_held_out  # noqa: E402
from t5x_code.tokens import train_bpe  # noqa: E402


def code(n: int, way: int) -> str:
    return f"def f(x):\n    total = {n}\n    for y in x:\n        total += y\n    return total\n" if way else (
        f"def g(x):\n    if not x:\n        return {n}\n    return x[0] + g(x[1:])\n"
    )  # fmt: skip


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [{"problem_id": f"p{n}", "solutions": [code(n, 0), code(n, 1)]} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    tokenizer = train_bpe.train([code(n, way) for n in range(40) for way in (0, 1)], 320, 2)
    yield register_logic_equivalence(tokenizer, str(path)), tokenizer
    seqio.TaskRegistry.reset()


def test_examples_are_the_candidates_of_held_out_problems(task):
    task, tokenizer = task
    held_out = sum(is_held_out(group_number(f"p{n}")) for n in range(40))
    examples = list(task.get_dataset(None, split="test", shuffle=False).as_numpy_iterator())
    assert len(examples) == 4 * held_out > 0
    assert {example["kind"].decode() for example in examples} == {"pos", "obf", "neg", "lsh"}
    targets = [task.postprocess_fn(None, example=example, is_target=True) for example in examples]
    (metric,) = task.score_metric_fns
    # A scorer that knows the answer, one that knows nothing, and one that looks at tokens alone.
    assert metric(targets, [kind in ("pos", "obf") for _, kind in targets])["mean"] == 1
    assert metric(targets, [0.0] * len(targets))["mean"] == 0.5
    overlap = [len(set(e["inputs"].tolist()) & set(e["targets"].tolist())) for e in examples]
    assert metric(targets, overlap)["obf|lsh"] == 0
    query = tokenizer.decode(examples[0]["inputs"])
    assert query in {code(n, 0) for n in range(40)}


def test_a_copy_of_the_query_is_no_other_solution(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [{"problem_id": f"p{n}", "solutions": [code(n, 0), code(n, 0) + "# again\n", code(n, 1)]} for n in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    tokenizer = train_bpe.train([code(n, way) for n in range(20) for way in (0, 1)], 320, 2)
    try:
        task = register_logic_equivalence(tokenizer, str(path))
        examples = list(task.get_dataset(None, split="test", shuffle=False).as_numpy_iterator())
    finally:
        seqio.TaskRegistry.reset()
    others = [tokenizer.decode(example["targets"]) for example in examples if example["kind"] == b"pos"]
    assert others and set(others) <= {code(n, 1) for n in range(20)}


def test_accuracy_counts_ties_one_half_and_leaves_out_what_is_absent():
    targets = [(0, "pos"), (0, "lsh"), (1, "pos"), (1, "lsh"), (2, "obf")]
    assert selection_accuracy(targets, [1, 1, 2, 1, 0]) == {"pos|lsh": 0.75, "mean": 0.75}
