"""Logically Equivalent Code Selection as a SeqIO task: one example per query and candidate, scored by a model.

A model scores each example by how well `targets`, the candidate, goes with `inputs`, the query; the task's metric then
says how often the accepted candidate wins. Our own models are evaluated by `evaluation/logic_equivalence.py`.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from t5x_code.data.quiet_tensorflow import quiet_tensorflow
from t5x_code.data.vocabulary import TokenizerVocabulary
from t5x_code.source_code.library import library_problems
from t5x_code.source_code.problems import distinct_solutions, group_number, is_held_out, read_problems
from t5x_code.source_code.selection import ACCEPTED, REJECTED, SETTINGS, selection_items
from t5x_code.tokens.tokenizer import Tokenizer

with quiet_tensorflow():
    import seqio
    import tensorflow as tf

LOGIC_EQUIVALENCE = "logic_equivalence"
TEST = "test"
MAX_SOLUTIONS = 4  # of a problem that are compared, as in evaluation/logic_equivalence.py


def register_logic_equivalence(tokenizer: Tokenizer, problems: str | None = None, limit: int = 500) -> seqio.Task:
    """Registers `logic_equivalence`, split `test`: the problems that are held out, and no others.

    Args:
        tokenizer: of both features.
        problems: JSONL file in the format of source_code/problems.py; None: the standard library's functions.
        limit: problems at most, those of lowest hash.
    """

    def examples() -> Iterator[dict[str, Any]]:
        found = read_problems(problems) if problems else library_problems()
        held_out = [problem for problem in found if is_held_out(group_number(problem.group))]
        chosen = sorted(held_out, key=lambda problem: group_number(problem.problem_id))[:limit]
        chosen = [dataclasses.replace(p, solutions=tuple(distinct_solutions(p, MAX_SOLUTIONS))) for p in chosen]
        for number, item in enumerate(selection_items(chosen, num_others=1)):
            for kind in (*ACCEPTED, *REJECTED):
                if kind in item.candidates:
                    yield {"inputs": item.query, "targets": item.candidates[kind], "item": number, "kind": kind}

    signature = {
        "inputs": tf.TensorSpec([], tf.string),
        "targets": tf.TensorSpec([], tf.string),
        "item": tf.TensorSpec([], tf.int32),
        "kind": tf.TensorSpec([], tf.string),
    }

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    vocabulary = TokenizerVocabulary(tokenizer)
    return seqio.TaskRegistry.add(
        LOGIC_EQUIVALENCE,
        source=seqio.FunctionDataSource(dataset, splits=(TEST,)),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features={name: seqio.Feature(vocabulary, add_eos=False) for name in ("inputs", "targets")},
        postprocess_fn=_item_and_kind,
        metric_fns=[selection_accuracy],
    )


def selection_accuracy(targets: Sequence[tuple[int, str]], scores: Sequence[float]) -> Mapping[str, float]:
    """How often the accepted candidate of an item scores above the rejected one, ties one half, by setting."""
    by_item: dict[int, dict[str, float]] = defaultdict(dict)
    for (item, kind), score in zip(targets, scores, strict=True):
        by_item[item][kind] = float(score)
    accuracies = {}
    for accepted, rejected in SETTINGS:
        pairs = [(of[accepted], of[rejected]) for of in by_item.values() if accepted in of and rejected in of]
        if pairs:
            wins = [0.5 if first == second else float(first > second) for first, second in pairs]
            accuracies[f"{accepted}|{rejected}"] = sum(wins) / len(wins)
    return accuracies | {"mean": sum(accuracies.values()) / max(1, len(accuracies))}


def _item_and_kind(output: Any, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """A target is known by its item and kind; what a model says stays as it is."""
    if not is_target:
        return output
    kind = example["kind"]
    return int(example["item"]), kind.decode() if isinstance(kind, bytes) else str(kind)
