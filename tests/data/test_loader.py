"""Batches: the same rows whatever the hosts, threads, restarts and batch sizes; fill and trimming as promised."""

import dataclasses
import itertools
import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from memory_store import EOD, MemoryStore, random_lengths

from t5x_code.data.loader import build_rows, data_fingerprint, evaluation_batches, iterate_batches
from t5x_code.data.streams import Stream, plan_rows
from t5x_code.errors import UserError
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Example, Layout
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.tokens.modality import TEXT_MODALITY, ModalityTables
from t5x_code.tokens.special_tokens import SpecialTokens

SPECIAL = SpecialTokens(EOD, 1, 2, masks=tuple(range(3, 103)))
LAYOUT = Layout(128, SPECIAL)


def codegen2_streams(store) -> list[Stream]:
    return [
        Stream("code/causal_lm", "code", store, CausalLM(), 0.5),
        Stream("code/span", "code", store, SpanCorruption(), 0.5),
    ]


@pytest.fixture(scope="module")
def rows():
    store = MemoryStore(random_lengths(60), num_shards=3, first_token=103, vocabulary=5000)
    return build_rows(codegen2_streams(store), LAYOUT, seed=5)


def assert_equal_batches(batches, expected):
    batches, expected = list(batches), list(expected)
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], strict=True)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("num_threads", [0, 2])
def test_hosts_and_threads_never_change_a_batch(rows, hosts, num_threads):
    sizes = [8] * 20 + [4] * 5 + [16] * 5
    expected = list(iterate_batches(rows, 0, sizes, num_threads=0))
    parts = zip(*(iterate_batches(rows, 0, sizes, host, hosts, num_threads) for host in range(hosts)), strict=True)
    joined = [{name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in parts]
    assert_equal_batches(joined, expected)
    assert [batch["inputs"].shape for batch in expected] == [(size, 128) for size in sizes]


def test_a_restart_and_a_ramp_keep_the_order_of_rows(rows):
    sizes = [4, 4, 8, 8, 8, 4, 16]
    ramp = list(iterate_batches(rows, 0, sizes, num_threads=1))
    assert [len(batch["inputs"]) for batch in ramp] == sizes
    steady = list(iterate_batches(rows, 0, [4] * 13, num_threads=0))
    for name in steady[0]:
        np.testing.assert_array_equal(
            np.concatenate([batch[name] for batch in ramp]), np.concatenate([batch[name] for batch in steady])
        )
    assert_equal_batches(iterate_batches(rows, sum(sizes[:3]), sizes[3:]), ramp[3:])
    assert_equal_batches(
        itertools.islice(iterate_batches(rows, 4, itertools.repeat(8)), 1),
        [{name: np.concatenate([steady[1][name], steady[2][name]]) for name in steady[0]}],
    )


def test_rows_alternate_between_objectives_and_change_with_the_seed(rows):
    batch = next(iterate_batches(rows, 0, [64]))
    corrupted_B = (batch["targets"] == SPECIAL.sep).any(axis=1)
    assert corrupted_B.tolist() == [False, True] * 32
    store = MemoryStore(random_lengths(60), num_shards=3, first_token=103, vocabulary=5000)
    other = next(iterate_batches(build_rows(codegen2_streams(store), LAYOUT, seed=6), 0, [64]))
    assert (batch["targets"] != other["targets"]).any(axis=1).all()


@dataclasses.dataclass(frozen=True)
class WithModality:
    """A causal objective that also fills an optional field."""

    name = "with_modality"

    def raw_length(self, layout, document_lengths_N):
        return layout.length

    def __call__(self, row, layout, rng) -> Example:
        example = CausalLM()(row, layout, rng)
        ones_L = np.ones(layout.length, np.int32)
        return dataclasses.replace(example, target_modality_L=ones_L, pool_ids_L=ones_L)


def test_all_rows_carry_the_same_fields():
    store = MemoryStore([50] * 20, first_token=103)
    streams = [Stream("plain", "code", store, CausalLM()), Stream("modal", "code", store, WithModality())]
    batch = next(iterate_batches(build_rows(streams, LAYOUT, 0), 0, [4]))
    assert batch["target_modality"][:, 0].tolist() == [0, 1, 0, 1]
    assert batch["pool_ids"][:, 0].tolist() == [-1, 1, -1, 1]
    assert batch["pool_ids"].dtype == np.int32


def test_evaluation_has_the_fields_of_the_mixtures_other_rows():
    store = MemoryStore([50] * 20, first_token=103)
    plain = Stream("plain", "code", store, CausalLM())
    rows = build_rows([plain, Stream("modal", "code", store, WithModality())], LAYOUT, 0)
    for batch in evaluation_batches(plan_rows(plain, LAYOUT, 0), 16, absent=rows.empty):
        assert batch.keys() == next(iterate_batches(rows, 0, [4])).keys()
        assert set(batch["pool_ids"].ravel().tolist()) == {-1} and batch["pool_ids"].shape == batch["inputs"].shape


def test_rows_of_other_sizes_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Shorter(WithModality):
        name = "shorter"

        def __call__(self, row, layout, rng):
            return dataclasses.replace(super().__call__(row, layout, rng), pool_ids_L=np.ones(3, np.int32))

    store = MemoryStore([50] * 20, first_token=103)
    streams = [Stream(name, "code", store, objective()) for name, objective in (("a", WithModality), ("b", Shorter))]
    with pytest.raises(UserError, match=r"pool_ids has other sizes in two streams: \(128,\) of a, \(3,\) of b"):
        build_rows(streams, LAYOUT, 0)


def test_evaluation_takes_each_token_once_and_pads_the_last_batch():
    store = MemoryStore(random_lengths(20), num_shards=2, first_token=1000)
    rows = plan_rows(Stream("code", "code", store, CausalLM()), LAYOUT, 0)
    batches = list(evaluation_batches(rows, batch_size=16))
    assert {batch["inputs"].shape for batch in batches} == {(16, 128)}
    targets = np.concatenate([batch["targets"][batch["loss_weights"] > 0] for batch in batches])
    np.testing.assert_array_equal(np.sort(targets), np.arange(store.lengths.sum()) + 1000)
    assert_equal_batches(evaluation_batches(rows, 16, num_batches=2), batches[:2])
    halves = zip(*(evaluation_batches(rows, 16, None, host, 2) for host in range(2)), strict=True)
    joined = [{name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in halves]
    assert_equal_batches(joined, batches)


def standard_library_lengths() -> np.ndarray:
    """Tokens of the interpreter's own sources, at 3.6 bytes a token, in a fixed random order."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(file for file in folder.glob("*.py")) + sorted(folder.glob("[a-rt-z]*/*.py"))
    lengths = np.array([os.path.getsize(file) / 3.6 for file in files if "test" not in file.parts]).astype(int) + 1
    return np.random.default_rng(0).permutation(lengths)


DOCUMENT_LENGTHS = {
    "lognormal": random_lengths(3000),
    "stdlib": standard_library_lengths(),
    "tiny": np.full(6144, 30),  # many documents of a row, each with a mask and a `<sep>`
}


@pytest.mark.parametrize("lengths", DOCUMENT_LENGTHS.values(), ids=DOCUMENT_LENGTHS.keys())
def test_rows_are_full_and_seldom_trimmed(lengths):
    layout = Layout(2048, SPECIAL)
    store = MemoryStore(lengths, first_token=103, vocabulary=8000)

    def fill(rows):
        return np.mean([np.mean(rows.example(i).segment_ids_L > 0) for i in range(rows.rows_per_epoch)])

    assert fill(plan_rows(Stream("c", "c", store, CausalLM()), layout, 0)) >= 0.999
    rows = plan_rows(Stream("s", "c", store, SpanCorruption()), layout, 0)
    assert fill(rows) >= 0.94
    trimmed = [
        SpanCorruption().corrupt(rows.plan.row(epoch, i), layout, np.random.default_rng(i))[1]
        for epoch in range(3)
        for i in range(rows.rows_per_epoch)
    ]
    assert np.mean(trimmed) < 0.02


def test_the_fingerprint_names_what_changed():
    store = MemoryStore([50] * 20)
    streams = codegen2_streams(store)
    before = data_fingerprint(streams, LAYOUT, 0)

    def changed(streams=streams, layout=LAYOUT, seed=0):
        after = data_fingerprint(streams, layout, seed)
        return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}

    assert changed(codegen2_streams(MemoryStore([50] * 20))) == set()
    assert changed(seed=1) == {"seed"}
    assert changed(layout=dataclasses.replace(LAYOUT, length=64)) == {"sequence_length"}
    assert changed(layout=dataclasses.replace(LAYOUT, isolate_documents=False)) == {"isolate_documents"}
    tables = [ModalityTables("full", 200, tuple(range(first, 200))) for first in (110, 111)]
    of_tables = [data_fingerprint(streams, dataclasses.replace(LAYOUT, modality=table), 0) for table in tables]
    assert len({of_one["modality"] for of_one in (before, *of_tables)}) == 3
    of_text = MemoryStore([50] * 20)
    of_text.manifest.modality = TEXT_MODALITY
    assert changed([streams[0], dataclasses.replace(streams[1], reader=of_text)]) == {"stream 2: modality"}
    rebuilt = dataclasses.replace(streams[1], reader=MemoryStore([50] * 20, fingerprint="cd34"))
    assert changed([streams[0], rebuilt]) == {"stream 2: rows"}
    without_some = dataclasses.replace(streams[1], reader=MemoryStore([50] * 19))
    assert changed([streams[0], without_some]) == {"stream 2: tokens"}  # such as a benchmark's answers
    longer = dataclasses.replace(streams[1], objective=SpanCorruption(max_span=32), rate=0.25)
    assert changed([streams[0], longer]) == {"stream 2: objective", "stream 2: rate"}
    assert "stream 1: rows" in changed(streams[::-1])
    assert "streams" in changed(streams[:1])
    renamed = [dataclasses.replace(s, name=s.name.replace("code", "moved"), task="moved") for s in streams]
    assert changed(renamed) == set()
    assert "special_tokens" in changed(layout=Layout(128, dataclasses.replace(SPECIAL, sep=1000)))


def test_the_fingerprint_names_a_schedule_that_is_followed_otherwise(monkeypatch):
    """Of a run that was begun before it was, rows would be left out or come twice."""
    constant, other = codegen2_streams(MemoryStore([50] * 20))
    streams = [constant, dataclasses.replace(other, rate=((0, 0.1), (400, 0.3)))]
    before = data_fingerprint(streams, LAYOUT, 0)
    monkeypatch.setattr("t5x_code.data.loader.SCHEDULE_BLOCKS", 10)
    after = data_fingerprint(streams, LAYOUT, 0)
    assert {name for name in before if before[name] != after[name]} == {"stream 2: rate"}


def test_bad_requests_say_what_to_do(rows):
    with pytest.raises(UserError, match="batch size 6 does not divide over 4 processes; choose a positive multiple"):
        next(iterate_batches(rows, 0, [6], process_index=0, process_count=4))
    with pytest.raises(UserError, match="batch size 3 does not divide"):
        next(
            evaluation_batches(plan_rows(Stream("c", "c", MemoryStore([9]), CausalLM()), LAYOUT, 0), 3, process_count=2)
        )
    with pytest.raises(UserError, match="no streams"):
        build_rows([], LAYOUT, 0)
    with pytest.raises(UserError, match="share a name: c, c"):
        build_rows([Stream("c", "c", MemoryStore([9]), CausalLM())] * 2, LAYOUT, 0)
