"""How long making a token store takes, beside bare tokenizing of the same text on the same machine.

    python benchmarks/caching.py [--text_bytes=40000000] [--output=FILE.json]

`encode_batch_fast` is the Rust library called once per 4 MiB of text that lies in memory, without offsets as by the
store, its ids left where they are.
`build_store` reads the same documents from a JSONL file, hashes, sorts, searches for benchmark answers, tokenizes and
writes. Both are timed in turns; the ratio is of the medians, and the aim is below 1.3.
"""

import functools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import tokenizers
import turns
from absl import flags

from t5x_code.data.builtin_tasks import PYTHON_STDLIB, declaration_for
from t5x_code.data.caching.build import build_store
from t5x_code.data.caching.shard_writer import BATCH_BYTES
from t5x_code.data.sources.source import read_documents
from t5x_code.recipes.command_line import run
from t5x_code.tokens import train_bpe
from t5x_code.tokens.tokenizer import TOKENIZER_FILE

TEXT_BYTES = flags.DEFINE_integer("text_bytes", 40_000_000, "Text to tokenize: the standard library, again and again.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the result.")


def main(argv: list[str]) -> None:
    """Prints one table."""
    texts = corpus(TEXT_BYTES.value)
    num_bytes = sum(len(text.encode()) for text in texts)
    tokenizer = train_bpe.train(texts[:300])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tokenizer.save(root)
        bare = tokenizers.Tokenizer.from_file(str(root / TOKENIZER_FILE))
        (root / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        (task,) = declaration_for(f"jsonl:{root}/corpus.jsonl").tasks
        build = functools.partial(build_store, task, tokenizer, root / "out", overwrite=True, show_progress=False)
        seconds: dict[str, list[float]] = {"encode_batch_fast": [], "build_store": []}
        for _ in range(ROUNDS.value):
            seconds["encode_batch_fast"].append(timed(functools.partial(encode_all, bare, texts)))
            seconds["build_store"].append(timed(build))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["build_store"] / medians["encode_batch_fast"]
    print(f"{'':18}{'seconds':>9}{'MB/s':>8}   {len(texts):,} documents, {num_bytes / 1e6:.1f} MB")
    for name, value in medians.items():
        print(f"{name:18}{value:9.2f}{num_bytes / 1e6 / value:8.2f}")
    print(f"{'ratio':18}{ratio:9.2f}")
    turns.write(OUTPUT.value, {"bytes": num_bytes, "seconds": seconds, "median_seconds": medians, "ratio": ratio})


def corpus(num_bytes: int) -> list[str]:
    """The standard library's sources, repeated with a first line that keeps the copies from being duplicates."""
    texts: list[str] = []
    total = copy = 0
    sources = list(read_documents(PYTHON_STDLIB, Counter()))
    while total < num_bytes:
        for source in sources:
            texts.append(f"# copy {copy}\n{source}")
            total += len(source)
        copy += 1
    return texts


def encode_all(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> None:
    """Tokenizes in batches of the size that the store is made with."""
    batch, total = [], 0
    for text in texts:
        batch.append(text)
        total += len(text)
        if total >= BATCH_BYTES:
            tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            batch, total = [], 0
    tokenizer.encode_batch_fast(batch, add_special_tokens=False)


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    run(main)
