"""Mapped tokens are what TensorStore reads, whatever the span; another layout than ours is left to it."""

import json
import os
import resource

import numpy as np
import pytest
import tensorstore as ts
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_code.data import mapped_tokens, token_store
from t5x_code.data.caching import shard_writer
from t5x_code.data.caching.build import build_store
from t5x_code.data.declarations import TRAIN, SourceDeclaration, TaskDeclaration
from t5x_code.data.mapped_tokens import map_tokens
from t5x_code.data.token_store import TokenStore
from t5x_code.tokens import train_bpe

INNER, PER_FILE = 16, 64


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """A function that writes tokens as a shard does, in small files."""

    def write(tokens_N) -> epath.Path:
        folder = epath.Path(tmp_path_factory.mktemp("shard"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shard_writer, "INNER_CHUNK", INNER)
            patch.setattr(shard_writer, "FILE_TOKENS", PER_FILE)
            shard_writer.write_arrays(folder, tokens_N, {})
        return folder / "tokens"

    return write


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("num_tokens", [1, INNER, PER_FILE, PER_FILE + 1, 3 * PER_FILE - INNER - 3])
def test_every_span_is_what_was_written(write, dtype, num_tokens):
    tokens_N = np.random.default_rng(0).integers(1, 256, num_tokens).astype(dtype)
    mapped = map_tokens(write(tokens_N))
    for start in range(num_tokens):
        for stop in (start, start + 1, start + INNER, start + 2 * PER_FILE, num_tokens):
            stop = min(stop, num_tokens)
            np.testing.assert_array_equal(mapped[start:stop], tokens_N[start:stop])


def test_mapped_files_leave_room_for_others(write, monkeypatch):
    """A mapped file is an open one."""
    folder = write(np.ones(3 * PER_FILE, np.uint16))
    highest = max(map(int, os.listdir("/dev/fd"))) + 30
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * highest, 2 * highest))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    mapped = [map_tokens(folder) for _ in range(highest)]
    assert mapped[0] is not None and mapped[-1] is None
    assert max(map(int, os.listdir("/dev/fd"))) < highest


def test_mapped_files_leave_room_for_other_mappings(write, tmp_path, monkeypatch):
    folder = write(np.ones(PER_FILE, np.uint16))
    monkeypatch.setattr(mapped_tokens, "MAX_MAP_COUNT", tmp_path / "max_map_count")
    highest = max(map(int, os.listdir("/dev/fd"))) + 10
    for limit, mapped in (("4000000000", True), (str(2 * highest), True), ("4", False), ("?", True)):
        (tmp_path / "max_map_count").write_text(f"{limit}\n")
        assert (map_tokens(folder) is not None) == mapped
    (tmp_path / "max_map_count").unlink()
    assert map_tokens(folder) is not None


@pytest.mark.parametrize(
    ("before", "granted", "after"),
    [
        ((256, 4096), 4096, 4096),
        ((256, resource.RLIM_INFINITY), 10_240, 10_240),  # as on macOS
        ((20_000, resource.RLIM_INFINITY), 20_000, 20_000),
        ((256, 4096), 256, 256),
    ],
)
def test_as_many_files_are_asked_for_as_the_system_grants(write, monkeypatch, before, granted, after):
    limits = list(before)

    def set_limits(_, wanted):
        if wanted[0] > granted or wanted[0] == resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")
        limits[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    assert map_tokens(write(np.ones(PER_FILE, np.uint16))) is not None
    assert limits == [after, before[1]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_a_layout_with_gaps_is_not_mapped(write, chunks):
    """As TensorStore itself writes one, where a chunk of zeros is left out."""
    tokens_N = np.repeat(np.array(chunks, np.uint16), INNER)
    folder = write(tokens_N)
    np.testing.assert_array_equal(map_tokens(folder)[0 : len(tokens_N)], tokens_N)
    with_gaps = ts.open({"driver": "zarr3", "kvstore": token_store.kvstore_url(folder)}, open=True).result()
    with_gaps.write(tokens_N).result()
    mapped = map_tokens(folder)
    assert (mapped is None) == (0 in chunks)
    if mapped is not None:
        np.testing.assert_array_equal(mapped[0 : len(tokens_N)], tokens_N)


@pytest.mark.parametrize(
    "change", ["compressed", "index at the start", "no metadata", "a short file", "no file", "another order"]
)
def test_what_does_not_look_as_it_should_is_not_mapped(write, change):
    folder = write(np.arange(1, 200, dtype=np.uint16))
    metadata = json.loads((folder / "zarr.json").read_text())
    (codec,) = metadata["codecs"]
    if change == "compressed":
        codec["configuration"]["codecs"].append({"name": "gzip", "configuration": {"level": 1}})
    elif change == "index at the start":
        codec["configuration"]["index_location"] = "start"
    elif change == "a short file":
        (folder / "c/1").write_bytes((folder / "c/1").read_bytes()[:40])
    elif change == "another order":  # the first two inner chunks of a file have changed places
        content = bytearray((folder / "c/0").read_bytes())
        index = len(content) - 4 - PER_FILE // INNER * 16
        content[index : index + 32] = content[index + 16 : index + 32] + content[index : index + 16]
        (folder / "c/0").write_bytes(content)
    elif change == "no file":
        (folder / "c/1").unlink()
    (folder / "zarr.json").write_text("{}" if change == "no metadata" else json.dumps(metadata))
    assert map_tokens(folder) is None


def test_small_large_and_remote_stores_read_alike(tmp_path, monkeypatch):
    texts = [f"def f{n}():\n    return {n}\n" * (n % 7 + 1) for n in range(80)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task = TaskDeclaration("t", SourceDeclaration("jsonl", str(tmp_path / "texts.jsonl")))
    folder = build_store(task, train_bpe.train(texts, 400, 2), tmp_path / "stores", show_progress=False)
    rng = np.random.default_rng(0)
    small = TokenStore.open(folder / TRAIN)
    bounds = np.sort(rng.integers(0, small.shard_tokens[0] + 1, (50, 2)))
    spans = [(0, int(start), int(stop)) for start, stop in bounds]
    wanted = small.read_spans(spans)
    monkeypatch.setattr(token_store, "IN_MEMORY_BYTES", 0)
    for name in ("mapped", "remote"):
        if name == "remote":
            monkeypatch.setattr(token_store, "map_tokens", lambda folder: None)
        store = TokenStore.open(folder / TRAIN)
        for got, expected in zip(store.read_spans(spans), wanted, strict=True):
            assert got.dtype == np.int32
            np.testing.assert_array_equal(got, expected)
        kind = type(store._tokens[0])
        assert kind is (token_store.MappedTokens if name == "mapped" else ts.TensorStore)
