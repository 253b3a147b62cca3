"""A token store holds each document once, in the order of its hash, and refuses to be read when it is not whole."""

import dataclasses
import errno
import itertools
import json
import os
import pickle
import pwd
import random
import socket
import threading

import numpy as np
import pytest
import tokenizers
from etils import epath

from t5x_code.data import manifest, token_store
from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching import build, shard_writer
from t5x_code.data.caching.build import build_store
from t5x_code.data.caching.document_hash import document_hash, part_of, split_of
from t5x_code.data.declarations import SPLITS, TaskDeclaration
from t5x_code.data.manifest import MANIFEST_FILE, Manifest, checksum_folder
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.tokens import train_bpe
from t5x_code.tokens.tokenizer import Tokenizer


def make_texts() -> list[str]:
    vocabulary = ["def", "return", "for", "in", "x", "y", "<mask_1>", "<|endoftext|>", "你好"]
    words = random.Random(0).choices(vocabulary, k=9000)
    return [" ".join(words[i : i + 1 + i % 40]) + f" # {i}\n" for i in range(400)]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return make_texts()


@pytest.fixture(scope="module")
def tokenizer(texts) -> Tokenizer:
    return train_bpe.train(texts, vocab_size=300, num_masks=4)


@pytest.fixture
def task(tmp_path, texts) -> TaskDeclaration:
    lines = [json.dumps({"text": text}) for text in [*texts, *texts[:30], ""]]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    (task,) = declaration_for(f"jsonl:{tmp_path}/data.jsonl").tasks
    return dataclasses.replace(task, validation_fraction=0.1)


def documents(store: TokenStore, tokenizer: Tokenizer) -> list[str]:
    found = []
    for shard in range(store.num_shards):
        ends = store.document_ends(shard).tolist()
        assert ends == sorted(ends)
        for start, end in itertools.pairwise([0, *ends]):
            ids = store.read(shard, start, end)
            assert np.flatnonzero(ids == store.manifest.eod).tolist() == [end - start - 1]
            found.append(tokenizer.decode(ids))
    return found


@pytest.mark.parametrize("shard_text_bytes", [1 << 28, 4000, 400])
def test_documents_come_back_once_in_the_order_of_their_hash(tmp_path, task, texts, tokenizer, shard_text_bytes):
    folder = build_store(task, tokenizer, tmp_path / "out", show_progress=False, shard_text_bytes=shard_text_bytes)
    stores = {split: TokenStore.open(folder / split) for split in SPLITS}
    hashes = {text: document_hash(task.store_seed, text.encode()) for text in texts}
    expected = {split: [] for split in SPLITS}
    for text in sorted(texts, key=hashes.get):
        expected[split_of(hashes[text], task.validation_fraction)].append(text)
    for split, store in stores.items():
        assert documents(store, tokenizer) == expected[split]
        assert store.manifest.num_documents == len(expected[split]) == len(store.document_lengths())
        assert store.manifest.num_tokens == store.document_lengths().sum() == store.shard_tokens.sum()
        assert store.manifest.num_bytes == sum(len(text.encode()) for text in expected[split])
        assert store.manifest.skipped == {"empty": 1}
    assert sum(store.manifest.duplicates for store in stores.values()) == 30
    assert 20 < stores["validation"].manifest.num_documents < 65
    assert (stores["train"].num_shards > 64) == (shard_text_bytes == 400)


def test_the_split_says_nothing_of_the_place_in_the_store():
    digests = [document_hash(0, str(i).encode()) for i in range(5000)]
    places = [part_of(digest, 1000) for digest in digests if split_of(digest, 0.1) == "validation"]
    assert 400 < len(places) < 600
    assert 450 < np.mean(places) < 550
    assert len({document_hash(seed, b"x") for seed in (-1, 0, 1)}) == 3


def test_the_order_of_the_source_changes_nothing(tmp_path, task, tokenizer):
    first = build_store(task, tokenizer, tmp_path / "1", show_progress=False)
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(reversed(file.read_text().split("\n"))))
    second = build_store(task, tokenizer, tmp_path / "2", show_progress=False)
    for split in SPLITS:
        before, after = Manifest.read(first / split), Manifest.read(second / split)
        assert before.checksums == after.checksums
        assert before.fingerprint != after.fingerprint


def test_a_store_can_be_pickled_and_carries_its_tokenizer(tmp_path, task, tokenizer):
    folder = build_store(task, tokenizer, tmp_path / "out", show_progress=False)
    store = TokenStore.open(folder / "train")
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.read(0, 5, 500), store.read(0, 5, 500))
    assert store.read(0, 5, 500).dtype == np.int32
    assert Tokenizer.load(str(folder / "tokenizer")).fingerprint == store.manifest.tokenizer_fingerprint


def test_damage_is_refused(tmp_path, task, tokenizer):
    folder = build_store(task, tokenizer, tmp_path / "out", show_progress=False) / "train"
    with pytest.raises(UserError, match="does not exist"):
        TokenStore.open(tmp_path / "none")
    data = folder / "shards" / "00000" / "tokens" / "c" / "0"
    whole = data.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[:-1], b""):
        data.write_bytes(damaged)
        with pytest.raises(UserError, match="not what was written; make it again"):
            TokenStore.open(folder)
    data.unlink()
    with pytest.raises(UserError, match="missing; make it again"):
        TokenStore.open(folder)
    data.write_bytes(whole)
    TokenStore.open(folder)
    manifest = (folder / MANIFEST_FILE).read_text()
    no_checksums = json.dumps(json.loads(manifest) | {"checksums": []})
    for damaged in (manifest[:100], "[]", "{}", manifest.replace('"eod"', '"dog"'), no_checksums):
        (folder / MANIFEST_FILE).write_text(damaged)
        with pytest.raises(UserError, match="is damaged"):
            TokenStore.open(folder)
    (folder / MANIFEST_FILE).write_text(manifest.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(UserError, match="has format 2"):
        TokenStore.open(folder)
    (folder / MANIFEST_FILE).unlink()
    with pytest.raises(UserError, match="is not finished"):
        TokenStore.open(folder)


def test_a_stores_files_are_asked_for_at_once(tmp_path, task, tokenizer, monkeypatch):
    """In a bucket each answer takes tens of milliseconds, and a large store has thousands of files."""
    folder = build_store(task, tokenizer, tmp_path / "out", show_progress=False, shard_text_bytes=4000) / "train"
    waiting, several = [], threading.Event()

    def slow(function):
        def wait_for_others(*arguments):
            waiting.append(arguments)
            if len(waiting) > 3:
                several.set()
            assert several.wait(10)
            return function(*arguments)

        return wait_for_others

    monkeypatch.setattr(token_store, "size_and_crc", slow(token_store.size_and_crc))
    store = TokenStore.open(folder, verify=True)
    waiting.clear(), several.clear()
    monkeypatch.setattr(store, "document_ends", slow(store.document_ends))
    assert store.document_lengths().sum() == store.manifest.num_tokens


def test_a_failed_build_leaves_what_was_there(tmp_path, task, tokenizer, monkeypatch):
    root = tmp_path / "out"
    build_store(task, tokenizer, root, show_progress=False)
    before = Manifest.read(root / task.name / "train")
    with pytest.raises(UserError, match="add --overwrite"):
        build_store(task, tokenizer, root, show_progress=False)

    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(build, "write_manifest", full_disk)
        with pytest.raises(UserError, match="No space left on device"):
            build_store(task, tokenizer, root, overwrite=True, show_progress=False)
    assert [path.name for path in root.iterdir()] == [task.name]
    assert Manifest.read(root / task.name / "train") == before
    making = f".{task.name}.making."
    for process in (999999999, os.getpid()):  # of processes that were killed, one of another container of this name
        (root / f"{making}{socket.gethostname()}.0a.{process}").mkdir()
    (root / f"{making}elsewhere.0a.999999999").mkdir()  # of another machine
    build_store(task, tokenizer, root, overwrite=True, show_progress=False)
    assert {path.name for path in root.iterdir()} == {task.name, f"{making}elsewhere.0a.999999999"}


def test_a_bucket_gets_manifests_last(tmp_path, monkeypatch):
    """Whoever reads there meanwhile takes a store with a manifest for whole."""
    for name in ("train/manifest.json", "train/shards/00000/tokens/c/0", "validation/manifest.json", "tokenizer/x"):
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    copied, path_type = [], type(epath.Path(tmp_path))
    copy = path_type.copy
    monkeypatch.setattr(build, "in_bucket", lambda path: True)
    monkeypatch.setattr(path_type, "copy", lambda file, to: copied.append(file.name) or copy(file, to))
    build.publish(tmp_path / "made", epath.Path(tmp_path / "store"))
    build.publish(tmp_path / "made", epath.Path(tmp_path / "store"))  # a second maker's, which is not needed
    assert sorted(copied[:2]) == ["0", "x"] and copied[2:] == [MANIFEST_FILE, MANIFEST_FILE]
    assert (tmp_path / "store/validation/manifest.json").read_text() == "validation/manifest.json"


@pytest.mark.parametrize("bucket", [False, True])
def test_a_store_that_another_process_was_first_with_stays(tmp_path, task, tokenizer, monkeypatch, bucket):
    """A run may read it already."""
    target, write_manifest = tmp_path / "out" / task.name, build.write_manifest

    def while_another_publishes(*arguments):
        write_manifest(*arguments)
        for split in SPLITS:
            (target / split).mkdir(parents=True, exist_ok=True)
            (target / split / MANIFEST_FILE).write_text("another's")

    monkeypatch.setattr(build, "write_manifest", while_another_publishes)
    monkeypatch.setattr(build, "in_bucket", lambda path: bucket)
    assert build_store(task, tokenizer, tmp_path / "out", show_progress=False) == epath.Path(target)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [task.name]
    assert {(target / split / MANIFEST_FILE).read_text() for split in SPLITS} == {"another's"}
    assert sorted(path.name for path in target.iterdir()) == sorted(SPLITS)
    build_store(task, tokenizer, tmp_path / "out", overwrite=True, show_progress=False)
    assert (target / "tokenizer").exists()


def test_a_buckets_files_are_copied_and_summed_at_once_and_a_failed_copy_leaves_no_manifest(tmp_path, monkeypatch):
    for name in ("train/manifest.json", *(f"train/shards/{number}" for number in range(build.THREADS))):
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    met, path_type = threading.Barrier(build.THREADS), type(epath.Path(tmp_path))
    copy, size_and_crc = path_type.copy, manifest.size_and_crc

    def copy_with_others(file, to):
        if file.name != MANIFEST_FILE:
            met.wait(10)
        return copy(file, to)

    def sum_with_others(file):
        met.wait(10)
        return size_and_crc(file)

    def copy_all_but_one(file, to):
        if file.name == "3":
            raise TimeoutError
        return copy(file, to)

    monkeypatch.setattr(build, "in_bucket", lambda path: True)
    monkeypatch.setattr(path_type, "copy", copy_with_others)
    build.publish(tmp_path / "made", epath.Path(tmp_path / "store"))
    monkeypatch.setattr(manifest, "size_and_crc", sum_with_others)
    sums = checksum_folder(epath.Path(tmp_path / "store/train/shards"))
    assert [*sums] == sorted(sums) and len(sums) == build.THREADS and sums["3"][0] == len("train/shards/3")
    monkeypatch.setattr(path_type, "copy", copy_all_but_one)
    with pytest.raises(TimeoutError):
        build.publish(tmp_path / "made", epath.Path(tmp_path / "failed"))
    assert (tmp_path / "failed/train/shards/0").exists() and not (tmp_path / "failed/train/manifest.json").exists()


def test_half_a_store_in_a_bucket_is_completed(tmp_path, monkeypatch):
    for split in SPLITS:
        (tmp_path / "made" / split).mkdir(parents=True)
        (tmp_path / "made" / split / MANIFEST_FILE).write_text("ours")
    store = epath.Path(tmp_path / "store")
    (store / SPLITS[0]).mkdir(parents=True)
    (store / SPLITS[0] / "of_another").write_text("half")
    monkeypatch.setattr(build, "in_bucket", lambda path: True)
    build.publish(tmp_path / "made", store)
    assert (store / SPLITS[1] / MANIFEST_FILE).read_text() == "ours" and (store / SPLITS[0] / "of_another").exists()


def test_a_file_of_an_unknown_owner_is_no_damage(tmp_path, task, tokenizer, monkeypatch):
    """As in a container or on NFS, and of a store that is too large to be read whole."""
    folder = build_store(task, tokenizer, tmp_path / "out", show_progress=False) / "train"

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(token_store, "ALWAYS_VERIFIED_BYTES", 0)
    TokenStore.open(folder)


def store_of(folder: epath.Path, tokens_N: np.ndarray, groups_D: np.ndarray) -> TokenStore:
    """A store of one shard that is never read whole, as are those in a bucket."""
    shard_writer.write_arrays(token_store.shard_folder(folder, 0), tokens_N, {"groups": groups_D})
    fields = dict.fromkeys(field.name for field in dataclasses.fields(Manifest))
    fields |= {"num_tokens": len(tokens_N), "shard_tokens": (len(tokens_N),), "checksums": checksum_folder(folder)}
    return TokenStore(folder, Manifest(**fields))


@pytest.fixture
def from_disk(monkeypatch):
    monkeypatch.setattr(token_store, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(token_store, "map_tokens", lambda folder: None)
    monkeypatch.setattr(shard_writer, "INNER_CHUNK", 16)
    monkeypatch.setattr(shard_writer, "FILE_TOKENS", 64)


def test_zeros_are_written_and_what_is_gone_is_not_read_as_zeros(tmp_path, from_disk):
    folder = epath.Path(tmp_path)
    tokens_N = np.concatenate([np.arange(1, 100), np.zeros(60)]).astype(np.uint16)
    store = store_of(folder, tokens_N, np.zeros(5, np.int64))
    np.testing.assert_array_equal(store.read(0, 0, 159), tokens_N)
    np.testing.assert_array_equal(store.groups(0), np.zeros(5))
    for name in ("tokens/c/1", "groups/c/0"):
        (folder / "shards/00000" / name).unlink()
    again = TokenStore(folder, store.manifest)  # the other remembers what it has read
    np.testing.assert_array_equal(again.read(0, 0, 64), tokens_N[:64])
    with pytest.raises(UserError, match=r"is damaged: .*/shards/00000/tokens/c/1 is missing; make it again"):
        again.read(0, 60, 70)
    with pytest.raises(UserError, match=r"is damaged: .*/shards/00000/groups/c/0 is missing; make it again"):
        again.groups(0)


def test_an_array_of_zeros_that_an_earlier_version_did_not_write_is_read(tmp_path, from_disk):
    folder = epath.Path(tmp_path)
    store = store_of(folder, np.ones(5, np.uint16), np.zeros(5, np.int64))
    (folder / "shards/00000/groups/c/0").unlink()
    before = dataclasses.replace(store.manifest, checksums=checksum_folder(folder))
    np.testing.assert_array_equal(TokenStore(folder, before).groups(0), np.zeros(5))


def test_a_tokenizer_that_takes_texts_for_control_tokens_makes_no_store(tmp_path, task):
    words = [("<unk>", 0.0), ("<|endoftext|>", -1.0), ("a", -1.0), (" ", -1.0)]
    plain = tokenizers.Tokenizer(tokenizers.models.Unigram(words, 0))
    plain.add_special_tokens(["<|endoftext|>"])
    with pytest.raises(UserError, match="which must not come out of a text"):
        build_store(task, Tokenizer.from_json(plain.to_str(), "a test"), tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_a_source_that_leaves_nothing_to_train_on_is_refused(tmp_path, task, tokenizer):
    with pytest.raises(UserError, match="no document to train on"):
        build_store(
            dataclasses.replace(task, validation_fraction=1.0), tokenizer, tmp_path / "out", show_progress=False
        )
    assert not list((tmp_path / "out").iterdir())


def test_an_empty_validation_split_is_readable(tmp_path, task, tokenizer):
    folder = build_store(
        dataclasses.replace(task, validation_fraction=0.0), tokenizer, tmp_path / "out", show_progress=False
    )
    store = TokenStore.open(folder / "validation")
    assert (store.manifest.num_documents, len(store.document_lengths()), len(store.read(0, 0, 0))) == (0, 0, 0)
