"""A bucket is asked little, as each answer takes tens of milliseconds: one listing tells of many files."""

import itertools
import json
import threading

import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from memory_store import EOD, MemoryStore, random_lengths

from t5x_code import buckets
from t5x_code.data import token_store
from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching.build import build_store
from t5x_code.data.declarations import SourceDeclaration, TaskDeclaration
from t5x_code.data.loader import build_rows, iterate_batches
from t5x_code.data.manifest import checksum_folder
from t5x_code.data.sources.files import find_files
from t5x_code.data.sources.source import source_fingerprint
from t5x_code.data.streams import Stream
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Layout
from t5x_code.recipes import inputs
from t5x_code.recipes.recipe import DataConfig
from t5x_code.recipes.vocabulary import Vocabulary
from t5x_code.tokens import train_bpe
from t5x_code.tokens.special_tokens import SpecialTokens

memory = pytest.importorskip("fsspec.implementations.memory")
ROOT = epath.Path("gs://bucket")


@pytest.fixture
def bucket(monkeypatch):
    """Files in memory in place of a bucket, which cannot be asked for the size of one, or for names without sizes."""
    bucket = memory.MemoryFileSystem(skip_instance_cache=True)
    bucket.store, bucket.pseudo_dirs = {}, [""]
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: bucket)
    monkeypatch.setattr(buckets, "_file_system", lambda path: (bucket, str(path)))
    for asked in ("stat", "listdir", "glob"):
        monkeypatch.setattr(backend.fsspec_backend, asked, None)
    return bucket


def test_the_files_of_a_source_come_with_their_sizes(bucket, tmp_path):
    names = ("a.jsonl", "b/c.jsonl", "b/.hidden.jsonl", ".git/d.jsonl", "e.txt")
    for number, name in enumerate(names, 1):
        for folder in (ROOT / "corpus", epath.Path(tmp_path)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("x" * number)
    (ROOT / "corpus/by_hand/").mkdir(parents=True)
    for pattern, found in {
        "": {"a.jsonl": 1, "b/c.jsonl": 2},
        "/*.jsonl": {"a.jsonl": 1},
        "/*": {"a.jsonl": 1, "e.txt": 5},
        "/*/c.jsonl": {"b/c.jsonl": 2},
    }.items():
        listed = find_files(f"{ROOT}/corpus{pattern}", (".jsonl",))
        assert {file.name: file.num_bytes for file in listed} == found
        assert [file.name for file in listed] == [file.name for file in find_files(f"{tmp_path}{pattern}", (".jsonl",))]
        assert all(file.path.read_text() == "x" * file.num_bytes for file in listed)
    for absent in ("/*.parquet", "/none", "/none/*"):
        with pytest.raises(UserError, match="no file at"):
            find_files(f"{ROOT}/corpus{absent}", (".parquet",))
    with pytest.raises(UserError, match=r"\*\* is not searched for in a bucket"):
        find_files(f"{ROOT}/corpus/**/*.jsonl", (".jsonl",))
    sources = [SourceDeclaration("jsonl", f"{folder}/*.jsonl") for folder in (ROOT / "corpus", tmp_path)]
    assert source_fingerprint(sources[0]) == source_fingerprint(sources[1])


def test_a_large_store_is_opened_by_a_listing(bucket, tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"x = {n}\n" * n}) + "\n" for n in range(1, 60)))
    task = TaskDeclaration("t", SourceDeclaration("jsonl", str(tmp_path / "a.jsonl")))
    made = build_store(task, train_bpe.train(["x = 1"], 300, 2), tmp_path / "out", show_progress=False) / "train"
    store = ROOT / "stores/t/train"
    for path in (tmp_path / "out/t/train").rglob("*"):
        if path.is_file():
            (store / path.relative_to(made).as_posix()).write_bytes(path.read_bytes())
    assert checksum_folder(store) == checksum_folder(made)
    monkeypatch.setattr(token_store, "ALWAYS_VERIFIED_BYTES", 0)
    TokenStore.open(store)
    file = store / "shards/00000/tokens/c/0"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"is damaged: shards/00000/tokens/c/0 is not what was written; make it again"):
        TokenStore.open(store)
    file.unlink()
    with pytest.raises(UserError, match="is damaged: shards/00000/tokens/c/0 is missing; make it again"):
        TokenStore.open(store)


class SeveralAtOnce:
    """Rows that are made only where so many are asked for at the same time."""

    def __init__(self, number):
        self._met = threading.Barrier(number)

    def __getitem__(self, row):
        self._met.wait(10)
        return {"row": np.asarray(row)}


def test_as_many_batches_are_made_ahead_as_there_are_threads():
    batches = iterate_batches(SeveralAtOnce(8), 0, itertools.repeat(1), num_threads=8)
    assert [int(batch["row"][0]) for batch in itertools.islice(batches, 32)] == list(range(32))


@pytest.mark.parametrize(
    ("folder", "given", "threads"), [(ROOT / "t", {}, 16), (ROOT / "t", {"threads": 2}, 2), (epath.Path("t"), {}, 2)]
)
def test_more_threads_read_from_a_bucket(monkeypatch, folder, given, threads):
    store = MemoryStore(random_lengths(20), num_shards=1, first_token=103, vocabulary=500)
    store.folder = folder
    layout = Layout(32, SpecialTokens(EOD, 1, 2, masks=tuple(range(3, 103))))
    rows = build_rows([Stream("t/causal_lm", "t", store, CausalLM())], layout, seed=0)
    monkeypatch.setattr(inputs, "iterate_batches", lambda *arguments: arguments[5])
    config = DataConfig("t", ((CausalLM(), 1.0),), **given)
    assert inputs.batches_from(rows, config, 0, 1)(0, iter([4])) == threads


@pytest.mark.parametrize(("root", "process", "compares"), [(ROOT, 1, False), (ROOT, 0, True), ("local", 1, True)])
def test_one_process_compares_a_store_in_a_bucket_with_its_source(monkeypatch, root, process, compares):
    class Asked(Exception):
        """Ends it here."""

    def ensure_store(*arguments, compare_source, **others):
        raise Asked(compare_source)

    mixture = declaration_for("jsonl:/corpus")
    tokenizer = train_bpe.train(["x = 1"], 300, 2)
    vocabulary = Vocabulary(mixture, epath.Path(root), tokenizer, "tokenizer", None, ())
    monkeypatch.setattr(inputs, "find_vocabulary", lambda *arguments: vocabulary)
    monkeypatch.setattr(inputs, "ensure_store", ensure_store)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    config = DataConfig("jsonl:/corpus", ((CausalLM(), 1.0),), stores=str(root))
    with pytest.raises(Asked, match=str(compares)):
        inputs.prepare_inputs(config, 300)
