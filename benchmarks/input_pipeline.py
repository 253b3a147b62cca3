"""How fast one core makes training batches, beside plain SeqIO on the same tokens.

    python benchmarks/input_pipeline.py --output=input_pipeline.json

Ours: `iterate_batches` on the token store of the interpreter's standard library, as a run reads it (TensorStore,
shuffle, objective, stacking), for each objective and for CodeGen2's half-and-half mixture. SeqIO: `get_dataset` with
`DecoderFeatureConverter(pack=True)` and shuffling on the same tokens, as TFRecords and once more as tensors in memory,
cut into pieces of a row beforehand (it would truncate longer documents): next-token prediction, as it has no file-level
corruption. All are held to one core and give batches as NumPy arrays. A token counts where it is not padding. Speeds
are the best and the median of many short windows, as other programs on the machine only slow us down; `ratio` is our
best over that of SeqIO on TFRecords, its own cache format.

Shape legend: N tokens of the store.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import turns
from absl import flags

from t5x_code.data.builtin_tasks import PYTHON_STDLIB
from t5x_code.data.caching.embedded_tokenizer import embedded_tokenizer
from t5x_code.data.caching.ensure import ensure_store
from t5x_code.data.declarations import TRAIN
from t5x_code.data.loader import build_rows, iterate_batches
from t5x_code.data.streams import Stream
from t5x_code.data.token_store import TokenStore
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Layout
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.recipes import command_line
from t5x_code.tokens.tokenizer import Tokenizer

SEED = 0
OBJECTIVES = {
    "causal_lm": (CausalLM(),),
    "span_corruption": (SpanCorruption(),),
    "codegen2 mixture": (CausalLM(), SpanCorruption()),
}

_STORES = flags.DEFINE_string(
    "stores", str(Path(tempfile.gettempdir()) / "t5x_code_benchmark"), "Folder of token stores; a missing one is made."
)
_LENGTH = flags.DEFINE_integer("length", 2048, "Tokens of a row.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Rows of a batch.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "How long each pipeline is timed, after its first ten batches.")
_THREADS = flags.DEFINE_integer("threads", 1, "Threads that read ahead.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")


def main(argv: list[str]) -> None:
    """Times each pipeline and prints the table."""
    del argv
    tokenizer = Tokenizer.load(str(embedded_tokenizer(_STORES.value, [PYTHON_STDLIB])))
    store = TokenStore.open(ensure_store(PYTHON_STDLIB, tokenizer, _STORES.value) / TRAIN)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    layout = Layout(_LENGTH.value, tokenizer.special_tokens)

    results = []
    for name, objectives in OBJECTIVES.items():
        streams = [Stream(objective.name, store.manifest.task, store, objective) for objective in objectives]
        rows = build_rows(streams, layout, SEED)
        batches = iterate_batches(rows, 0, itertools.repeat(_BATCH_SIZE.value), num_threads=_THREADS.value)
        results.append({"pipeline": name} | measure((batch["segment_ids"] for batch in batches), _SECONDS.value))
    with tempfile.TemporaryDirectory() as folder:
        for name, batches in seqio_batches(store, Path(folder), _LENGTH.value, _BATCH_SIZE.value).items():
            results.append({"pipeline": name} | measure(batches, _SECONDS.value))

    print(f"{store.manifest.num_tokens:,} tokens, rows of {_LENGTH.value}, batches of {_BATCH_SIZE.value}, one core")
    print(f"{'pipeline':<20}{'M tokens/s':>12}{'(median)':>12}{'fill':>8}{'ratio':>8}")
    (reference,) = (result["best"] for result in results if result["pipeline"] == "SeqIO, TFRecords")
    for result in results:
        result["ratio"] = result["best"] / reference
        best, median = result["best"] / 1e6, f"({result['median'] / 1e6:.2f})"
        print(f"{result['pipeline']:<20}{best:>12.2f}{median:>12}{result['fill']:>8.3f}{result['ratio']:>8.2f}")
    turns.write(_OUTPUT.value, results, length=_LENGTH.value, batch_size=_BATCH_SIZE.value)


def measure(segment_ids: Iterator[np.ndarray], seconds: float) -> dict[str, float]:
    """Non-padding tokens per second of windows of eight batches, and their share of the places.

    Args:
      segment_ids: batches' [B, L] segment ids, endless.
      seconds: how long to go on.
    """
    for _ in itertools.islice(segment_ids, 10):
        pass
    speeds, tokens, places, begin = [], 0, 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start, window = time.perf_counter(), 0
        for segment_ids_BxL in itertools.islice(segment_ids, 8):
            window += np.count_nonzero(segment_ids_BxL)
            places += segment_ids_BxL.size
        speeds.append(window / (time.perf_counter() - start))
        tokens += window
    return {"best": max(speeds), "median": statistics.median(speeds), "fill": tokens / places}


def seqio_batches(store: TokenStore, folder: Path, length: int, batch_size: int) -> dict[str, Iterator[np.ndarray]]:
    """The segment ids of SeqIO's endless packed batches over the store's documents, by the kind of its source."""
    import seqio  # TensorFlow comes last, so that it cannot slow our own pipelines down
    import tensorflow as tf

    tokens_N = np.concatenate([store.read(s, 0, int(n)) for s, n in enumerate(store.shard_tokens)]) + 1  # 0 is padding
    pieces = [min(length, left) for n in store.document_lengths().tolist() for left in range(n, 0, -length)]
    with tf.io.TFRecordWriter(str(folder / "train.tfrecord")) as writer:
        for piece_N in np.split(tokens_N, np.cumsum(pieces)[:-1]):
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=piece_N))
            example = tf.train.Example(features=tf.train.Features(feature={"targets": feature}))
            writer.write(example.SerializeToString())
    description = {"targets": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)}
    ragged = tf.RaggedTensor.from_row_lengths(tokens_N, pieces)
    sources = {
        "SeqIO, TFRecords": seqio.TFExampleDataSource({"train": str(folder / "train.tfrecord")}, description),
        "SeqIO, in memory": seqio.FunctionDataSource(
            lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices({"targets": ragged}), splits=["train"]
        ),
    }
    vocabulary = seqio.PassThroughVocabulary(store.manifest.vocab_size + 1)
    batches = {}
    for number, (name, source) in enumerate(sources.items()):
        seqio.TaskRegistry.add(
            f"benchmark_{number}",
            source=source,
            preprocessors=[
                lambda dataset: dataset.map(lambda example: {"targets": tf.cast(example["targets"], tf.int32)})
            ],
            output_features={"targets": seqio.Feature(vocabulary, add_eos=False)},
        )
        dataset = seqio.get_dataset(
            f"benchmark_{number}",
            task_feature_lengths={"targets": length},
            dataset_split="train",
            shuffle=True,
            feature_converter=seqio.DecoderFeatureConverter(pack=True),
            num_epochs=None,
        )
        iterator = dataset.batch(batch_size, drop_remainder=True).prefetch(2).as_numpy_iterator()
        batches[name] = (batch["decoder_segment_ids"] for batch in iterator)
    return batches


if __name__ == "__main__":
    command_line.run(main)
