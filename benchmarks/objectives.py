"""Tokens per second that one core makes of each objective.

    python benchmarks/objectives.py --output=objectives.json

Every objective makes batches from the token store of the interpreter's standard library, those of text to code from its
docstring-function pairs (rows of 1024), as a run reads them: TensorStore, shuffle or packing, objective, stacking. Of
text to code a second store is read too, with the same pairs many times over, too large to be kept in memory. The
limit to compare with is what a core must deliver: an accelerator that trains a model of 1 B parameters takes well under
100 k tokens/s, a host feeds 4 to 8 of them, so 1.5 M tokens/s of a single core never hold one up. A token counts where
it is not padding. Windows of all objectives alternate; `ratio` is the median over that of causal LM, which only copies.
"""

import dataclasses
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

from t5x_code.data.builtin_tasks import PYTHON_PAIRS, PYTHON_STDLIB
from t5x_code.data.caching.embedded_tokenizer import embedded_tokenizer
from t5x_code.data.caching.ensure import ensure_store
from t5x_code.data.caching.shard_writer import write_arrays
from t5x_code.data.declarations import TRAIN
from t5x_code.data.loader import build_rows, iterate_batches
from t5x_code.data.streams import Stream
from t5x_code.data.token_store import IN_MEMORY_BYTES, TokenStore, shard_folder
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Layout, Objective, PackingObjective
from t5x_code.objectives.infill import Infill
from t5x_code.objectives.prefix_lm import PrefixLM
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.objectives.ul2 import UL2
from t5x_code.recipes import command_line
from t5x_code.tokens.characters import TokenCharacters
from t5x_code.tokens.modality import split_vocabulary
from t5x_code.tokens.tokenizer import Tokenizer

PAIR_LENGTH = 1024
LARGE_BYTES = 2 * IN_MEMORY_BYTES
WINDOW = 8  # batches
ON_TEXT: dict[str, Objective] = {
    "causal_lm": CausalLM(),
    "prefix_lm": PrefixLM(),
    "span_corruption": SpanCorruption(),
    "span_corruption, across files": SpanCorruption(across_files=True),
    "span_corruption, T5's": SpanCorruption(0.15, 0.15, span_lengths="t5"),
    "infill": Infill(rate=1.0),
    "infill, at characters": Infill(rate=1.0, split="character"),
    "ul2": UL2(),
}
ON_PAIRS: dict[str, PackingObjective] = {
    form: TextToCode(form) for form in ("text_code_clm", "code_clm", "corrupt_code_clm", "prefix_code_clm")
}

_STORES = flags.DEFINE_string(
    "stores", str(Path(tempfile.gettempdir()) / "t5x_code_benchmark"), "Folder of token stores; a missing one is made."
)
_LENGTH = flags.DEFINE_integer("length", 2048, "Tokens of a row.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Rows of a batch.")
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Windows of eight batches of each objective.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")


def main(argv: list[str]) -> None:
    """Times each objective and prints the table."""
    del argv
    batches = {}
    for task, length, objectives in (
        (PYTHON_STDLIB, _LENGTH.value, ON_TEXT),
        (PYTHON_PAIRS, min(PAIR_LENGTH, _LENGTH.value), ON_PAIRS),
    ):
        tokenizer = Tokenizer.load(str(embedded_tokenizer(_STORES.value, [task])))
        store = TokenStore.open(ensure_store(task, tokenizer, _STORES.value) / TRAIN)
        special = tokenizer.special_tokens
        is_pairs = task is PYTHON_PAIRS
        tables = split_vocabulary("full" if is_pairs else "none", tokenizer.vocabulary(), special.all_ids, 8192)
        layout = Layout(length, special, True, tokenizer.vocab_size, TokenCharacters(tokenizer), tables)
        readers = {"": store} | ({", large store": enlarged(store, LARGE_BYTES)} if is_pairs else {})
        for (kind, reader), (name, objective) in itertools.product(readers.items(), objectives.items()):
            rows = build_rows([Stream(name, task.name, reader, objective)], layout, seed=0)
            batches[name + kind] = iterate_batches(rows, 0, itertools.repeat(_BATCH_SIZE.value), num_threads=0)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = measure(batches, _ROUNDS.value)
    reference = results[0]["median"]
    print(f"rows of {_LENGTH.value} (pairs {PAIR_LENGTH}), batches of {_BATCH_SIZE.value}, one core, M tokens/s")
    print(f"{'objective':<34}{'median':>8}{'min':>8}{'max':>8}{'ratio':>8}{'fill':>8}")
    for result in results:
        result["ratio"] = result["median"] / reference
        speeds = "".join(f"{result[name] / 1e6:>8.2f}" for name in ("median", "min", "max"))
        print(f"{result['objective']:<34}{speeds}{result['ratio']:>8.2f}{result['fill']:>8.3f}")
    turns.write(_OUTPUT.value, results, length=_LENGTH.value, batch_size=_BATCH_SIZE.value)


def enlarged(store: TokenStore, num_bytes: int) -> TokenStore:
    """A store of pairs that holds the documents of `store` as often as it takes; made beside it when missing."""
    folder = store.folder.parent / "enlarged"
    manifest = store.manifest
    times = -(-num_bytes // (manifest.num_tokens * np.dtype(manifest.dtype).itemsize))
    if not folder.exists():
        shards = range(store.num_shards)
        tokens_N = np.concatenate([store.read(shard, 0, int(store.shard_tokens[shard])) for shard in shards])
        before_S = np.cumsum(store.shard_tokens) - store.shard_tokens
        arrays = {
            name: np.concatenate([of_shard(shard) + before_S[shard] for shard in shards])
            for name, of_shard in (("document_ends", store.document_ends), ("part_ends", store.part_ends))
        }
        arrays = {name: (np.arange(times)[:, None] * len(tokens_N) + ends).reshape(-1) for name, ends in arrays.items()}
        for name, of_shard in (("part_kinds", store.part_kinds), ("groups", store.groups)):
            arrays[name] = np.tile(np.concatenate([of_shard(shard) for shard in shards]), times)
        write_arrays(shard_folder(folder, 0), np.tile(tokens_N.astype(manifest.dtype), times), arrays)
    counts = {"num_documents": times * manifest.num_documents, "num_tokens": times * manifest.num_tokens}
    of_shards = {"shard_documents": (counts["num_documents"],), "shard_tokens": (counts["num_tokens"],)}
    return TokenStore(folder, dataclasses.replace(manifest, **counts, **of_shards, checksums={}))


def measure(batches: dict[str, Iterator[dict[str, np.ndarray]]], rounds: int) -> list[dict[str, float]]:
    """Non-padding tokens per second of windows that alternate over the objectives, and the share of filled places."""
    speeds: dict[str, list[float]] = {name: [] for name in batches}
    places = dict.fromkeys(batches, 0)
    tokens = dict.fromkeys(batches, 0)
    for number in range(rounds + 1):  # the first is to warm up
        for name, iterator in batches.items():
            start, window = time.perf_counter(), 0
            for batch in itertools.islice(iterator, WINDOW):
                window += np.count_nonzero(batch["segment_ids"])
                places[name] += batch["segment_ids"].size
            if number:
                speeds[name].append(window / (time.perf_counter() - start))
            tokens[name] += window
    return [
        {
            "objective": name,
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "fill": tokens[name] / places[name],
        }
        for name, values in speeds.items()
    ]


if __name__ == "__main__":
    command_line.run(main)
