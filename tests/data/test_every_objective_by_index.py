"""All objectives in one mixture: the same rows on any number of hosts, full rows of pairs, every token seen."""

import itertools
import json

import numpy as np
import pytest
from memory_store import EOD, MemoryStore, random_lengths

from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching.build import build_store
from t5x_code.data.declarations import TRAIN
from t5x_code.data.loader import build_rows, iterate_batches
from t5x_code.data.streams import Stream, plan_rows
from t5x_code.data.token_store import TokenStore
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Layout
from t5x_code.objectives.infill import Infill
from t5x_code.objectives.prefix_lm import PrefixLM
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.objectives.ul2 import UL2
from t5x_code.source_code.linearisation import restore_lines
from t5x_code.tokens import train_bpe
from t5x_code.tokens.modality import split_vocabulary
from t5x_code.tokens.special_tokens import MARKS, PAIR_TEXTS

FORMS = ("text_code_clm", "code_clm", "corrupt_code_clm", "prefix_code_clm")
OBJECTIVES = (CausalLM(), PrefixLM(), SpanCorruption(), SpanCorruption(across_files=True), Infill(), UL2())
FUNCTION = "{body}    total = {number}\n    for item in items{number}:\n        total += item\n    return total\n"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A store of pairs made from JSON lines, some of them without a signature, with its tokenizer."""

    folder = tmp_path_factory.mktemp("pairs")
    rng, lines = np.random.default_rng(0), []
    for number in range(700):
        body = FUNCTION.format(body="    # more\n" * int(rng.geometric(0.12)), number=number)
        header = f"def function_{number}(items{number}):\n" if number % 5 else ""
        lines.append(
            {
                "docstring": f"Adds up items {number}.\n\nAll of them.",
                "code": header + body if header else f"x = {number}\n",
            }
        )
    lines += [
        {"docstring": "x"},
        {"docstring": "\x1c", "code": "y = 1\n"},
        {"docstring": "<python> <NEW_LINE>", "code": "z\n"},
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (task,) = declaration_for(f"jsonl_pairs:{folder}/pairs.jsonl").tasks
    tokenizer = train_bpe.train([line["docstring"] + line.get("code", "") for line in lines], 500, 8, PAIR_TEXTS)
    store = build_store(task, tokenizer, folder / "stores", show_progress=False)
    return TokenStore.open(store / TRAIN), tokenizer, lines


def mixture(pairs, length=256):
    store, tokenizer, _ = pairs
    special = tokenizer.special_tokens
    tables = split_vocabulary("partial", tokenizer.vocabulary(), special.all_ids, 512)
    layout = Layout(length, special, True, tokenizer.vocab_size, modality=tables)
    texts = MemoryStore(random_lengths(60), 2, first_token=special.eod + 120, vocabulary=400)
    assert special.eod == EOD
    streams = [Stream(f"text/{objective!r}", "text", texts, objective) for objective in OBJECTIVES]
    streams += [Stream(f"pairs/{form}", "pairs", store, TextToCode(form)) for form in FORMS]
    return build_rows(streams, layout, seed=3)


@pytest.fixture(scope="module")
def mixtures(pairs):
    """The same mixture, planned twice."""
    return mixture(pairs), mixture(pairs)


@pytest.mark.parametrize("first_row", [0, 4096])
def test_the_same_batches_on_any_number_of_hosts(mixtures, first_row):
    rows, again = mixtures
    whole = list(itertools.islice(iterate_batches(rows, first_row, itertools.repeat(24)), 3))
    assert {"target_modality", "segment_ids", "loss_weights"} <= whole[0].keys()
    for hosts in (2, 4):
        parts = [
            itertools.islice(iterate_batches(again, first_row, itertools.repeat(24), host, hosts), 3)
            for host in range(hosts)
        ]
        for batch, *of_hosts in zip(whole, *parts, strict=True):
            for name, array in batch.items():
                np.testing.assert_array_equal(np.concatenate([part[name] for part in of_hosts]), array)


def test_pairs_fill_their_rows_and_each_is_seen_once_an_epoch(pairs):
    store, tokenizer, lines = pairs
    layout = Layout(1024, tokenizer.special_tokens, True, tokenizer.vocab_size)
    rows = plan_rows(Stream("pairs/code_clm", "pairs", store, TextToCode()), layout, 0)
    used, seen = 0, []
    for number in range(rows.rows_per_epoch):
        example = rows.epoch_example(1, number)
        used += np.count_nonzero(example.segment_ids_L)
        for piece in rows.plan.row(1, number).pieces:
            parts = [tokenizer.decode_marked(part) for part in np.split(piece.tokens_N, piece.part_ends)]
            seen.append((restore_lines(parts[0], *MARKS), restore_lines(parts[1] + parts[2], *MARKS)))
    assert used / (rows.rows_per_epoch * 1024) >= 0.95
    assert len(seen) == len(set(seen)) == store.manifest.num_documents - rows.plan.packing.num_too_long
    made = {(line["docstring"], line["code"]) for line in lines if "code" in line}
    assert set(seen) <= made and len(made) - len(seen) < 40  # the rest is held out
    assert store.manifest.skipped == {"control characters": 1, "no field docstring or code": 1}


def test_causal_rows_hold_every_token_once_an_epoch(pairs):
    store, _, _ = pairs
    rows = plan_rows(Stream("pairs/causal_lm", "pairs", store, CausalLM()), Layout(64, pairs[1].special_tokens), 0)
    examples = [rows.example(rows.rows_per_epoch + index) for index in range(rows.rows_per_epoch)]
    seen = np.concatenate([example.targets_L[example.segment_ids_L > 0] for example in examples])
    stored = np.concatenate([store.read(s, 0, int(n)) for s, n in enumerate(store.shard_tokens)])
    np.testing.assert_array_equal(np.sort(seen), np.sort(stored))
