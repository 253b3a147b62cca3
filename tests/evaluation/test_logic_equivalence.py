"""Selection: figures are those counted by hand, codes together equal codes alone, no trained problem is taken."""

import dataclasses
import itertools
import json
import math

import jax
import numpy as np
import pytest
from byte_model import ByteTokenizer

from t5x_code.errors import UserError
from t5x_code.evaluation import embeddings, logic_equivalence
from t5x_code.evaluation.embeddings import embed_codes
from t5x_code.evaluation.intervals import bootstrap_interval
from t5x_code.evaluation.logic_equivalence import evaluate_logic_equivalence
from t5x_code.evaluation.request import Request
from t5x_code.evaluation.selection_scores import BagOfTokens, cosine, selection_scores
from t5x_code.evaluation.verdicts import verdict_log_odds
from t5x_code.inference.infilling import TextModel
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import hidden_states, init_params, logits
from t5x_code.reports.similarity_plot import draw_similarities
from t5x_code.source_code.problems import Problem, group_number, is_held_out
from t5x_code.source_code.selection import DIFFERENT_TEXT, EQUIVALENT_TEXT, selection_items


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(
        num_layers=2, model_dim=32, num_heads=2, num_kv_heads=2, head_dim=16, mlp_dim=64, vocab_size=261,
        max_length=256, rotary_dim=8, dtype="float32",
    )  # fmt: skip
    # Sixteen times the usual range, or attention would hardly matter.
    params = jax.tree.map(lambda leaf: leaf * (16 if leaf.ndim > 2 else 1), init_params(config, jax.random.key(0)))
    return TextModel(config, params, ByteTokenizer(), begin=(256,))


@pytest.mark.parametrize("begin", [(256,), (), (256, 1)])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_codes_together_equal_codes_alone(model, attention, begin):
    model = dataclasses.replace(model, begin=begin)
    rng = np.random.default_rng(0)
    read = jax.jit(hidden_states, static_argnums=0)
    codes = [rng.integers(0, 256, size) for size in (3, 1, 40, 100, 250, 400, 7)]
    vectors = embed_codes(model, codes, attention)
    for number, code in enumerate(codes):
        lead = list(begin)
        tokens = np.concatenate([lead, code])[:256].astype(np.int32)
        size, positions = len(tokens), np.arange(256, dtype=np.int32)
        to = np.where(positions < size, positions + 1 if attention == "causal" else size, 0)
        padded = np.pad(tokens, (0, 256 - size))
        x_LxD = read(model.config, model.params, padded[None], positions[None], 0 * positions[None], to[None])[0]
        x_LxD = x_LxD[len(lead) : size]
        np.testing.assert_allclose(vectors["mean"][number], x_LxD.mean(0), rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(vectors["last"][number], x_LxD[-1], rtol=2e-4, atol=2e-5)


def test_scores_are_those_counted_by_hand():
    rng = np.random.default_rng(0)
    kinds = ("pos", "obf", "neg", "lsh")
    items = [{kind: float(rng.integers(0, 4)) for kind in kinds if rng.random() < 0.8} for _ in range(40)]
    others = [[float(rng.integers(0, 4)) for _ in range(5)] for _ in items]
    metrics, intervals = selection_scores(items, others)
    for accepted, rejected in itertools.product(("pos", "obf"), ("neg", "lsh")):
        both = [(item[accepted], item[rejected]) for item in items if accepted in item and rejected in item]
        expected = sum((a > b) + 0.5 * (a == b) for a, b in both) / len(both)
        assert metrics[f"{accepted}|{rejected}"] == pytest.approx(expected)
    assert metrics["mean"] == pytest.approx(np.mean([value for name, value in metrics.items() if "|" in name]))
    ranks, firsts = [], []
    for item, its_others in zip(items, others, strict=True):
        if "obf" in item:
            rejected = its_others + ([item["lsh"]] if "lsh" in item else [])
            ranks.append(1 + sum((b > item["obf"]) + 0.5 * (b == item["obf"]) for b in rejected))
            firsts.append(not any(b > item["obf"] for b in rejected) and 1 / (1 + rejected.count(item["obf"])))
    assert metrics["obf/mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert metrics["obf/accuracy_at_1"] == pytest.approx(np.mean(firsts))
    assert all(low <= metrics[name] <= high for name, (low, high) in intervals.items())


def test_the_mean_is_of_settings_and_not_of_items():
    """The second item has one setting, and weighs in that one alone; so does it where it is drawn alone."""
    items = [{"pos": 1.0, "obf": 1.0, "neg": 0.0, "lsh": 0.0}, {"pos": 0.0, "neg": 1.0}]
    metrics, intervals = selection_scores(items, [(), ()])
    assert metrics == {"pos|neg": 0.5, "pos|lsh": 1, "obf|neg": 1, "obf|lsh": 1, "mean": 0.875}
    assert intervals["mean"] == [0, 1]
    many, intervals = selection_scores(items * 50, [()] * 100)
    low, high = intervals["mean"]
    assert many == metrics and (low, high) == pytest.approx((0.85, 0.90), abs=0.01)
    whole = [{"pos": 2.0, "obf": obf, "neg": 1.0, "lsh": 3.0} for obf in (0.0, 2.0, 3.0, 4.0)]
    metrics, intervals = selection_scores(whole, [()] * 4, seed=3)
    assert metrics["mean"] == np.mean([0.25, 0.5, 0.625, 0.75])
    assert intervals["mean"] == bootstrap_interval(np.array([0.25, 0.5, 0.625, 0.75]), 3)
    assert selection_scores([{"pos": 1.0}], [()]) == ({}, {})


def test_a_diverged_model_has_no_accuracy():
    items = [{"pos": math.nan, "obf": 0.5, "neg": 0.2, "lsh": 0.4}, {"pos": 0.9, "obf": 0.5, "neg": 0.2, "lsh": 0.4}]
    metrics, _ = selection_scores(items, [[0.1], [0.1]])
    assert {name for name, value in metrics.items() if math.isnan(value)} == {
        "pos|neg", "pos|lsh", "mean", "pos/accuracy_at_1", "pos/mrr",
    }  # fmt: skip
    assert metrics["obf|neg"] == metrics["obf/accuracy_at_1"] == metrics["obf/mrr"] == 1


@pytest.mark.parametrize("values", [[1.0, 1.0], [1.0000001], [math.nan], [math.nan, 0.5], []])
def test_similarities_that_are_all_one_or_no_number_are_drawn(values):
    assert "nan" not in draw_similarities({"model": {"pos": values}}, "t")


def test_bags_of_tokens_equal_dense_vectors():
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 12, rng.integers(1, 30)) for _ in range(9)]
    counts = np.stack([np.bincount(code, minlength=12) for code in codes]).astype(float)
    idf = np.array([math.log((1 + 9) / (1 + (counts[:, token] > 0).sum())) + 1 for token in range(12)])
    for weigh, dense in ((False, counts), (True, counts * idf)):
        bag = BagOfTokens(codes, weigh)
        for first, second in itertools.combinations(range(9), 2):
            assert bag.similarity(first, second) == pytest.approx(cosine(dense[first], dense[second]))


def solutions(n: int) -> tuple[str, str]:
    return (
        f"def run_{n}(items):\n    total = {n}\n    for x in items:\n        total += x + {n}\n    return total\n",
        f"def go_{n}(values):\n    if not values:\n        return {n}\n    return values[0] + {n} + go_{n}(values)\n",
    )


PROBLEMS = [Problem(f"p{n}", "python", solutions(n)) for n in range(40)]


@pytest.fixture
def problem_file(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"problem_id": p.problem_id, "language": p.language, "solutions": p.solutions} for p in PROBLEMS]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_items_hold_other_problems_of_like_length():
    for item in selection_items(PROBLEMS, num_others=6):
        own = next(problem for problem in PROBLEMS if problem.problem_id == item.problem_id)
        assert item.query == own.solutions[0] and item.candidates["pos"] == own.solutions[1]
        assert item.candidates["neg"] == item.others[0] and len(set(item.others)) == 6
        assert not set(item.others) & set(own.solutions)
        lengths = sorted(abs(len(s) - len(item.query)) for p in PROBLEMS for s in p.solutions if p is not own)
        assert abs(len(item.others[0]) - len(item.query)) == lengths[0]
        assert sorted(item.candidates["lsh"]) == sorted(item.query)
        assert sorted(item.candidates["obf_lsh"]) == sorted(item.candidates["obf"])
    assert selection_items(PROBLEMS) == selection_items(PROBLEMS)


def test_codes_that_are_cut_are_counted(model, problem_file, monkeypatch):
    """A row may be shorter than the context, and the token that begins a document takes its place in it."""
    held_out = [p for p in PROBLEMS if is_held_out(group_number(p.group))]
    request = Request("logic_equivalence", model, data=problem_file, show_progress=False)
    items = selection_items(held_out)
    texts = {text for item in items for text in (item.query, *item.candidates.values(), *item.others)}
    middle = sorted(map(len, texts))[len(texts) // 2]
    monkeypatch.setattr(embeddings, "MAX_ROW", middle)
    results = evaluate_logic_equivalence(request, ("causal",), with_untrained=False)
    assert results["codes_cut"] == sum(len(text) + 1 > middle for text in texts) > 0


class MirroredBytes(ByteTokenizer):
    """Other ids for the same texts."""

    def encode(self, text):
        return 255 - super().encode(text)


def test_a_model_is_evaluated_on_held_out_problems_only(model, problem_file):
    kernel = model.params["embedding"]["kernel"]
    mirrored = model.params | {"embedding": {"kernel": kernel.at[:256].set(kernel[255::-1])}}
    same = dataclasses.replace(model, params=mirrored, tokenizer=MirroredBytes())
    request = Request("logic_equivalence", model, data=problem_file, before=same, show_progress=False)
    results = evaluate_logic_equivalence(request)
    held_out = [p for p in PROBLEMS if is_held_out(group_number(p.group))]
    assert results["num_problems"] == len(held_out) > 3
    metrics = results["metrics"]
    wanted = {"", "untrained/", "bag_of_tokens/", "tf_idf/", "before/", "last_causal/", "mean_bidirectional/"}
    assert {f"{way}{name}" for way in wanted for name in ("pos|neg", "obf|lsh", "mean", "pos/mrr")} <= metrics.keys()
    for name in ("mean", "pos/mrr", "correlation_with_bag_of_tokens"):
        assert metrics[f"before/{name}"] == metrics[name]  # the same model
    assert metrics["untrained/correlation_with_bag_of_tokens"] != metrics["correlation_with_bag_of_tokens"]
    # A bag of tokens cannot see lines change places: it takes the shuffled query over everything.
    assert metrics["bag_of_tokens/pos|lsh"] == metrics["bag_of_tokens/obf|lsh"] == 0
    assert -1 <= metrics["correlation_with_bag_of_tokens"] <= 1
    picture = draw_similarities(results["similarities"], "a < b")
    assert picture.startswith("<svg") and "a &lt; b" in picture and picture.count("<polygon") == 16
    asked = evaluate_logic_equivalence(dataclasses.replace(request, variant="verdict", before=None), ("causal",), False)
    assert {"verdict/pos|neg", "verdict/obf|lsh", "verdict/mean"} <= asked["metrics"].keys()
    trained = frozenset({group_number(held_out[0].group)})
    with pytest.raises(UserError, match=f"trained on 1 of these problems, such as {held_out[0].problem_id}"):
        evaluate_logic_equivalence(dataclasses.replace(request, trained_groups=trained))
    others = frozenset(group_number(p.group) for p in PROBLEMS) - trained
    with pytest.raises(UserError, match="was trained on"):
        evaluate_logic_equivalence(dataclasses.replace(request, trained_groups=others, variant="all_problems"))


def test_lines_of_one_id_are_items_of_their_own(model, tmp_path, monkeypatch):
    """As a problem's solutions in two languages may stand."""
    name = next(p.problem_id for p in PROBLEMS if is_held_out(group_number(p.group)))
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(json.dumps({"problem_id": name, "solutions": solutions(n)}) for n in (1, 2)))
    odds = np.array([1.0, 0, 0, 0, 0, 0])  # another solution, renamed, shuffled: told apart in the first line alone
    monkeypatch.setattr(logic_equivalence, "verdict_log_odds", lambda model, pairs, on_progress: odds[: len(pairs)])
    request = Request("logic_equivalence", model, data=str(path), variant="verdict", show_progress=False)
    metrics = evaluate_logic_equivalence(request, ("causal",), with_untrained=False)["metrics"]
    assert (metrics["verdict/pos|lsh"], metrics["verdict/obf|lsh"]) == (0.75, 0.5)


@pytest.mark.parametrize("sizes", [(30, 20), (300, 30), (30, 300), (300, 300)])
def test_a_verdict_is_the_difference_of_two_log_probabilities(model, sizes):
    """Counted over one sequence at a time, whole logits; long pairs leave room for the verdict."""
    rng = np.random.default_rng(0)
    query, candidate = ("".join(map(chr, rng.integers(97, 123, size))) for size in sizes)
    (odds,) = verdict_log_odds(model, [(query, candidate)])
    total = 0.0
    room = 256 - len(DIFFERENT_TEXT) - 1
    for text, sign in ((EQUIVALENT_TEXT, 1), (DIFFERENT_TEXT, -1)):
        if sum(sizes) <= room:
            shown = query + candidate
        elif sizes == (300, 30):
            shown = query[: room - 30] + candidate
        elif sizes == (30, 300):
            shown = query + candidate[: room - 30]
        else:
            shown = query[: room // 2] + candidate[: room - room // 2]
        tokens = np.concatenate([[256], model.tokenizer.encode(shown + text)]).astype(np.int32)
        index = np.arange(len(tokens))[None]
        x = hidden_states(model.config, model.params, tokens[None], index, 0 * index, index + 1)
        log_p = jax.nn.log_softmax(logits(model.config, model.params, x), axis=-1)[0]
        start = 1 + len(shown)
        total += sign * sum(float(log_p[at - 1, tokens[at]]) for at in range(start, len(tokens)))
    assert odds == pytest.approx(total, rel=1e-3, abs=1e-3)
