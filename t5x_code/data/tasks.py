"""SeqIO's view of the declarations, both ways: registered as SeqIO tasks, and made from SeqIO tasks."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from t5x_code.data.caching.document_hash import document_hash, split_of_document
from t5x_code.data.declarations import (
    SPLITS,
    MixtureDeclaration,
    SourceDeclaration,
    TaskDeclaration,
)
from t5x_code.data.document import PartedDocument, to_bytes
from t5x_code.data.quiet_tensorflow import quiet_tensorflow
from t5x_code.data.sources.seqio_task import FEATURE, SEQIO, get_task
from t5x_code.data.sources.source import read_documents, source_kind
from t5x_code.data.vocabulary import TokenizerVocabulary
from t5x_code.errors import UserError
from t5x_code.tokens.tokenizer import Tokenizer

with quiet_tensorflow():
    import seqio
    import tensorflow as tf


def register_task(task: TaskDeclaration, tokenizer: Tokenizer) -> seqio.Task:
    """Registers a declared task with SeqIO under its name: feature `targets`, each document ended by eod.

    Documents come in the order of the source, duplicates and benchmark answers included: those are dropped when a token
    store is made.
    """
    parted = bool(source_kind(task.source).part_kinds)

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        def documents() -> Iterator[str | np.ndarray]:
            for document in read_documents(task, Counter()):
                digest = document_hash(task.store_seed, to_bytes(document))
                if split_of_document(task.store_seed, digest, document, task.validation_fraction) == split:
                    yield document if isinstance(document, str) else _ids_of_parts(document, tokenizer)

        signature = tf.TensorSpec([None], tf.int32) if parted else tf.TensorSpec([], tf.string)
        made = tf.data.Dataset.from_generator(documents, output_signature=signature)
        return made.map(lambda document: {FEATURE: document})

    return seqio.TaskRegistry.add(
        task.name,
        source=seqio.FunctionDataSource(dataset, splits=SPLITS),
        preprocessors=[*([] if parted else [seqio.preprocessors.tokenize]), seqio.preprocessors.append_eos],
        output_features={FEATURE: seqio.Feature(TokenizerVocabulary(tokenizer), add_eos=True)},
        metric_fns=[exact_match, mean_log_likelihood],
    )


def _ids_of_parts(document: PartedDocument, tokenizer: Tokenizer) -> np.ndarray:
    """A document's ids as a token store holds them: tokens never reach over two parts."""
    ids = tokenizer.encode_marked_batch([part.text for part in document.parts])
    return np.concatenate([np.zeros(0, np.int32), *ids])


def register_mixture(mixture: MixtureDeclaration, tokenizer: Tokenizer) -> seqio.Mixture:
    """Registers a mixture, and those of its tasks that SeqIO does not know yet.

    Raises:
        UserError: a rate follows a schedule, which SeqIO's mixtures cannot.
    """
    for task, rate in mixture.rates:
        if not isinstance(rate, int | float):
            raise UserError(f"mixture {mixture.name}: SeqIO has no rate schedules; give {task.name} a constant rate")
        if task.name not in seqio.TaskRegistry.names():
            register_task(task, tokenizer)
    return seqio.MixtureRegistry.add(mixture.name, [(task.name, rate) for task, rate in mixture.rates])


def exact_match(targets: list, predictions: list) -> Mapping[str, float]:
    """Share of documents predicted to the last token."""
    matches = [np.array_equal(target, prediction) for target, prediction in zip(targets, predictions, strict=True)]
    return {"exact_match": float(np.mean(matches))}


def mean_log_likelihood(targets: list, scores: list) -> Mapping[str, float]:
    """Mean over documents of the log likelihood in nats."""
    return {"mean_log_likelihood": float(np.mean(scores))}


def declaration_from_seqio(module: str, name: str) -> tuple[TaskDeclaration, Tokenizer]:
    """Declares a task of a user's own SeqIO module, so that it can be cached and trained on.

    Args:
        module: imported by name from the Python path or the working folder; registers the task.
        name: of the task. Its feature `targets` is read from its split `train`; the validation split is chosen by
            document hash as everywhere.

    Returns:
        The declaration, and the tokenizer behind the task's vocabulary.

    Raises:
        UserError: no such module or task, or one whose `targets` do not come from a TokenizerVocabulary.
    """
    task = get_task(module, name)
    vocabulary = task.output_features[FEATURE].vocabulary if FEATURE in task.output_features else None
    if not isinstance(vocabulary, TokenizerVocabulary):
        raise UserError(
            f"SeqIO task {name} needs a feature {FEATURE} with a t5x_code.data.vocabulary.TokenizerVocabulary "
            f"(it has {', '.join(f'{key}: {type(f.vocabulary).__name__}' for key, f in task.output_features.items())})"
        )
    source = SourceDeclaration(SEQIO, f"{module}:{name}")
    return TaskDeclaration(name, source, preprocessors=()), vocabulary.tokenizer
