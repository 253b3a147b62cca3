"""A corpus that was moved gives the same rows in the same order, cut, corrupted and packed, whatever its name."""

import json
import shutil

import numpy as np
import pytest

from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching.build import build_store
from t5x_code.data.declarations import TRAIN
from t5x_code.data.loader import build_rows, data_fingerprint, iterate_batches
from t5x_code.data.streams import Stream
from t5x_code.data.token_store import TokenStore
from t5x_code.objectives.example import Layout
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.tokens import train_bpe
from t5x_code.tokens.special_tokens import PAIR_TEXTS

KINDS = {"jsonl": SpanCorruption(), "jsonl_pairs": TextToCode("corrupt_code_clm")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Records that are documents and docstring-code pairs alike."""
    folder = tmp_path_factory.mktemp("before")
    lines = []
    for number in range(200):
        code = f"def f{number}(x):\n    y = {number} * x\n    return y\n" * (number % 3 + 1)
        lines.append({"text": code, "docstring": f"Multiplies by {number}.", "code": code})
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_bpe.train([(corpus / "data.jsonl").read_text()], 450, 20, PAIR_TEXTS)


def streams_of(kind, folder, tokenizer, stores, objective=None):
    (task,) = declaration_for(f"{kind}:{folder}/*.jsonl").tasks
    store = TokenStore.open(build_store(task, tokenizer, stores, show_progress=False) / TRAIN)
    return [Stream(f"{task.name}/{KINDS[kind].name}", task.name, store, objective or KINDS[kind])]


def batches_of(streams, layout, process=(0, 1), seed=3):
    batches = iterate_batches(build_rows(streams, layout, seed), 0, [8] * 12, *process)
    return [batch["inputs"] for batch in batches]


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_corpus_gives_the_same_rows(kind, corpus, tokenizer, tmp_path):
    before = streams_of(kind, corpus, tokenizer, tmp_path / "stores")
    shutil.copytree(corpus, tmp_path / "elsewhere" / "new")
    after = streams_of(kind, tmp_path / "elsewhere" / "new", tokenizer, tmp_path / "more_stores")
    assert before[0].task != after[0].task
    layout = Layout(128, tokenizer.special_tokens, vocab_size=tokenizer.vocab_size)
    assert data_fingerprint(before, layout, 3) == data_fingerprint(after, layout, 3)
    wanted = batches_of(before, layout)  # twelve batches of eight rows: more than an epoch
    np.testing.assert_array_equal(batches_of(after, layout), wanted)
    halves = [batches_of(after, layout, process=(index, 2)) for index in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), wanted)
    assert not np.array_equal(batches_of(before, layout, seed=4), wanted)


def test_a_changed_corpus_gives_another_order(corpus, tokenizer, tmp_path):
    before = streams_of("jsonl", corpus, tokenizer, tmp_path / "stores")
    shutil.copytree(corpus, tmp_path / "new")
    with (tmp_path / "new/data.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    after = streams_of("jsonl", tmp_path / "new", tokenizer, tmp_path / "stores")
    layout = Layout(128, tokenizer.special_tokens, vocab_size=tokenizer.vocab_size)
    assert data_fingerprint(before, layout, 3) != data_fingerprint(after, layout, 3)
    assert before[0].shuffle_key != after[0].shuffle_key
