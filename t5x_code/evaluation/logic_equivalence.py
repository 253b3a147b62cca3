"""Logically Equivalent Code Selection (arXiv 2404.08885): does a model tell a program that does the same from one that
only looks the same?

A program's vector is pooled from the last layer, similarity is the cosine; what is selected from what is said by
source_code/selection.py. Beside the model stand bag-of-tokens, TF-IDF and the same model untrained.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from t5x_code.errors import UserError
from t5x_code.evaluation.embeddings import ATTENTIONS, Attention, embed_codes, most_tokens
from t5x_code.evaluation.request import Request, Results
from t5x_code.evaluation.selection_scores import BagOfTokens, correlation, cosine, selection_scores
from t5x_code.evaluation.verdicts import verdict_log_odds
from t5x_code.inference.infilling import TextModel
from t5x_code.models.decoder import init_params
from t5x_code.progress import progress_bar
from t5x_code.source_code.library import library_problems
from t5x_code.source_code.problems import Problem, distinct_solutions, group_number, is_held_out, read_problems
from t5x_code.source_code.selection import ACCEPTED, REJECTED, SelectionItem, selection_items

MAX_SOLUTIONS = 4  # of a problem that are compared
NUM_ITEMS = 500  # of the standard library
ALL_PROBLEMS = "all_problems"  # the variant that also takes problems that are not held out
VERDICT = "verdict"  # the variant that also asks a model that was taught equivalence as text

Similarity = Callable[[int, int], float]


def evaluate_logic_equivalence(
    request: Request, attentions: Sequence[Attention] = ATTENTIONS, with_untrained: bool = True
) -> Results:
    """Selection by the request's model, and by a second one, `before`, if there is one.

    Args:
        request: what to evaluate on what.
        attentions: causal, and what else the codes are read with.
        with_untrained: also measure the model with fresh parameters.

    Returns:
        `metrics` for mean pooling and causal attention: accuracies, `correlation_with_bag_of_tokens`, and, prefixed by
        their names, those of other poolings and attention, of the baselines and of the second model. `similarities` of
        every kind of candidate, by model, are what the picture is drawn of.

    Raises:
        UserError: no model; no problems; or the model was trained on one of them.
    """
    model, seed = request.require_model(), request.sampled.seed
    items = selection_items(_problems(request), seed=seed)
    if not items:
        raise UserError("there is no held-out problem to select for; give --data=FILE.jsonl with more problems")
    texts = list(dict.fromkeys(text for item in items for text in _texts(item)))
    numbers = {text: number for number, text in enumerate(texts)}
    codes = [model.tokenizer.encode(text) for text in texts]
    bag = BagOfTokens(codes, weigh_by_frequency=False)
    ways = _ways_of_models(request, texts, attentions, with_untrained) | {
        "bag_of_tokens": bag.similarity,
        "tf_idf": BagOfTokens(codes, weigh_by_frequency=True).similarity,
    }
    results = _results(items, numbers, ways, bag.similarity, seed) | _about(request, items, codes, model)
    if request.variant == VERDICT:
        metrics, intervals = _by_verdict(items, model, seed, request.show_progress)
        results["metrics"] |= metrics
        results["confidence_95"] |= intervals
    return results


def _ways_of_models(
    request: Request, texts: Sequence[str], attentions: Sequence[Attention], with_untrained: bool
) -> dict[str, Similarity]:
    """Cosines of the model's vectors, read and pooled in each way, and of other models' as they are by default.

    The default, causal attention and the mean, has the empty name for the model, and another model's name for that.
    """
    model = request.require_model()
    others = {"before": request.before} if request.before else {}
    if with_untrained:
        others["untrained"] = dataclasses.replace(model, params=_fresh_params(model, request.sampled.seed))
    total = len(texts) * (len(attentions) + len(others))
    ways: dict[str, Similarity] = {}
    with progress_bar(total=total, unit="code", shown=request.show_progress) as progress:
        codes = [model.tokenizer.encode(text) for text in texts]
        for attention in attentions:
            for pooling, vectors_NxD in embed_codes(model, codes, attention, progress.update).items():
                is_default = (pooling, attention) == ("mean", "causal")
                ways["" if is_default else f"{pooling}_{attention}"] = _by_cosine(vectors_NxD)
        for name, other in others.items():
            codes = [other.tokenizer.encode(text) for text in texts]
            ways[name] = _by_cosine(embed_codes(other, codes, "causal", progress.update)["mean"])
    return ways


def _fresh_params(model: TextModel, seed: int) -> Any:
    """Of the model before training, laid out as its own."""
    init = functools.partial(init_params, model.config)
    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, model.params))(jax.random.key(seed))


def _by_verdict(
    items: Sequence[SelectionItem], model: TextModel, seed: int, show_progress: bool
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Selection by what the model says of a pair, `verdict/..`; the other programs are left out, for each is a pair."""
    kinds = (*ACCEPTED, *REJECTED)
    asked = [(number, kind) for number, item in enumerate(items) for kind in kinds if kind in item.candidates]
    with progress_bar(total=len(asked), unit="pair", shown=show_progress) as progress:
        pairs = [(items[number].query, items[number].candidates[kind]) for number, kind in asked]
        odds = verdict_log_odds(model, pairs, progress.update)
    by_item: list[dict[str, float]] = [{} for _ in items]  # not by id: a problem may have a line for each language
    for (number, kind), value in zip(asked, odds, strict=True):
        by_item[number][kind] = float(value)
    metrics, intervals = selection_scores(by_item, [()] * len(items), seed)
    return _prefixed(VERDICT, metrics), _prefixed(VERDICT, intervals)


def _prefixed(way: str, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a way by `way/name`; those of the model itself, which has the empty name, by `name`."""
    return {f"{way}/{name}": value for name, value in figures.items()} if way else figures


def _by_cosine(vectors_NxD: np.ndarray) -> Similarity:
    return lambda first, second: cosine(vectors_NxD[first], vectors_NxD[second])


def _problems(request: Request) -> list[Problem]:
    """The problems of the file, or of the standard library: held out, and not trained on."""
    found: Sequence[Problem] = list(read_problems(request.data) if request.data else library_problems())
    if not found:
        raise UserError(f"{request.data} has no problem; write one a line, with problem_id, language and solutions")
    takes_all = request.variant == ALL_PROBLEMS
    found = [problem for problem in found if takes_all or is_held_out(group_number(problem.group))]
    found = sorted(found, key=lambda problem: group_number(problem.problem_id))
    found = found[: request.limit or (None if request.data else NUM_ITEMS)]
    trained_on = [p.problem_id for p in found if group_number(p.group) in request.trained_groups]
    if trained_on:
        raise UserError(
            f"the model was trained on {len(trained_on)} of these problems, such as {trained_on[0]}; leave out "
            f"--variant={ALL_PROBLEMS}, so that only held-out problems are taken, or give other data"
        )
    return [dataclasses.replace(p, solutions=tuple(distinct_solutions(p, MAX_SOLUTIONS))) for p in found]


def _texts(item: SelectionItem) -> list[str]:
    return [item.query, *item.candidates.values(), *item.others]


def _results(
    items: Sequence[SelectionItem], numbers: dict[str, int], ways: dict[str, Similarity], bag: Similarity, seed: int
) -> Results:
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    drawn: dict[str, dict[str, list[float]]] = {}
    for name, similarity in sorted(ways.items()):
        by_kind = [
            {kind: similarity(numbers[item.query], numbers[text]) for kind, text in item.candidates.items()}
            for item in items
        ]
        others = [[similarity(numbers[item.query], numbers[text]) for text in item.others] for item in items]
        its_metrics, its_intervals = selection_scores(by_kind, others, seed)
        if name != "bag_of_tokens":
            pairs = [(numbers[item.query], numbers[text]) for item in items for text in item.candidates.values()]
            its_metrics["correlation_with_bag_of_tokens"] = correlation(
                [similarity(*pair) for pair in pairs], [bag(*pair) for pair in pairs]
            )
        metrics |= _prefixed(name, its_metrics)
        intervals |= _prefixed(name, its_intervals)
        kinds = dict.fromkeys(kind for similarities in by_kind for kind in similarities)
        drawn[name or "model"] = {kind: [s[kind] for s in by_kind if kind in s] for kind in kinds}
    shown = {name: drawn[name] for name in ("before", "model") if name in drawn}
    return {"metrics": metrics, "confidence_95": intervals, "similarities": shown}


def _about(
    request: Request, items: Sequence[SelectionItem], codes: Sequence[np.ndarray], model: TextModel
) -> dict[str, object]:
    too_long = sum(len(code) > most_tokens(model) for code in codes)
    return {
        "num_problems": len(items),
        "num_others": max(len(item.others) for item in items),
        "codes_cut": too_long,
        "data": request.data or "the held-out modules of the standard library",
    }
