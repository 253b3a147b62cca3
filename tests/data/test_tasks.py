"""SeqIO and token stores hold the same documents, for declared tasks and for a user's own."""

import itertools
import json
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow")
seqio = pytest.importorskip("seqio")

import tensorflow as tf  # noqa: E402

from t5x_code.data.builtin_tasks import PYTHON_DOCS, declaration_for  # noqa: E402
from t5x_code.data.caching.build import build_store  # noqa: E402
from t5x_code.data.caching.ensure import ensure_store, rebuild_command  # noqa: E402
from t5x_code.data.declarations import SPLITS, MixtureDeclaration  # noqa: E402
from t5x_code.data.tasks import declaration_from_seqio, exact_match, register_mixture, register_task  # noqa: E402
from t5x_code.data.token_store import TokenStore  # noqa: E402
from t5x_code.data.vocabulary import TokenizerVocabulary  # noqa: E402
from t5x_code.errors import UserError  # noqa: E402
from t5x_code.tokens import train_bpe  # noqa: E402
from t5x_code.tokens.special_tokens import PAIR_TEXTS  # noqa: E402

TEXTS = [f"def f{i}(x):\r\n    return x + {i} # ß <sep>\n" for i in range(120)]
MODULE = """
import functools
import seqio
import tensorflow as tf
from t5x_code.data.vocabulary import TokenizerVocabulary
from t5x_code.tokens.tokenizer import Tokenizer

def dataset(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices([f"x = {i}" for i in range(50)]).map(lambda text: {"targets": text})

def add(name, vocabulary, preprocessors):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["train"]),
        preprocessors=[seqio.preprocessors.tokenize, *preprocessors],
        output_features={"targets": seqio.Feature(vocabulary)},
    )

vocabulary = TokenizerVocabulary(Tokenizer.load(TOKENIZER))
add("mine", vocabulary, [seqio.preprocessors.append_eos])
add("bytes", seqio.ByteVocabulary(), [])
sep = vocabulary.tokenizer.special_tokens.sep
add("control", vocabulary, [lambda ds: ds.map(lambda x: {"targets": tf.concat([[sep], x["targets"]], 0)})])
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe.train(TEXTS, vocab_size=300, num_masks=4)


@pytest.fixture(autouse=True)
def empty_registries():
    yield
    seqio.TaskRegistry.reset()
    seqio.MixtureRegistry.reset()
    sys.modules.pop("my_tasks", None)


def store_documents(folder) -> set[tuple[int, ...]]:
    store = TokenStore.open(folder)
    ends = store.document_ends(0).tolist()
    return {tuple(store.read(0, start, end).tolist()) for start, end in itertools.pairwise([0, *ends])}


def test_seqio_gives_the_documents_of_the_store(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    (task,) = declaration_for(f"jsonl:{tmp_path}/a.jsonl").tasks
    folder = build_store(task, tokenizer, tmp_path / "out", show_progress=False)
    register_task(task, tokenizer)
    register_mixture(MixtureDeclaration("pair", ((task, 1.0), (PYTHON_DOCS, 3.0))), tokenizer)
    provider = seqio.get_mixture_or_task(task.name)
    for split in SPLITS:
        dataset = provider.get_dataset(sequence_length=None, split=split, shuffle=False)
        found = [tuple(example["targets"].tolist()) for example in dataset.as_numpy_iterator()]
        assert set(found) == store_documents(folder / split)
    mixture = seqio.get_mixture_or_task("pair")
    assert [mixture.get_rate(member) for member in mixture.tasks] == [1.0, 3.0]
    scheduled = MixtureDeclaration("scheduled", ((task, ((0, 1.0), (9, 0.0))),))
    with pytest.raises(UserError, match="no rate schedules"):
        register_mixture(scheduled, tokenizer)


def test_seqio_gives_the_pairs_of_the_store(tmp_path):
    lines = [{"docstring": f"Adds {n}.", "code": f"def f(x):\n    y = {n}\n    return x + y\n"} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tokenizer = train_bpe.train(TEXTS, 330, 4, PAIR_TEXTS)
    (task,) = declaration_for(f"jsonl_pairs:{tmp_path}/a.jsonl").tasks
    folder = build_store(task, tokenizer, tmp_path / "out", show_progress=False)
    dataset = register_task(task, tokenizer).get_dataset(sequence_length=None, split="train", shuffle=False)
    found = [tuple(example["targets"].tolist()) for example in dataset.as_numpy_iterator()]
    assert set(found) == store_documents(folder / "train") and len(found) > 20


def test_vocabulary_agrees_with_the_tokenizer(tokenizer):
    vocabulary = TokenizerVocabulary(tokenizer)
    for text in TEXTS[:3]:
        ids = tokenizer.encode(text)
        assert vocabulary.encode(text) == ids.tolist()
        np.testing.assert_array_equal(vocabulary.encode_tf(tf.constant(text)).numpy(), ids)
        assert vocabulary.decode([*ids.tolist(), vocabulary.eos_id, 7]) == text
        batch = tf.constant([ids.tolist(), ids.tolist()])
        assert [row.decode() for row in vocabulary.decode_tf(batch).numpy()] == [text, text]
    assert vocabulary.vocab_size == tokenizer.vocab_size
    assert vocabulary == TokenizerVocabulary(tokenizer) != TokenizerVocabulary(train_bpe.train(TEXTS, 310, 4))


def test_a_users_module_is_cached_and_then_needs_no_tensorflow(tmp_path, tokenizer, monkeypatch):
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "my_tasks.py").write_text(MODULE.replace("TOKENIZER)", f"{str(tmp_path / 'tokenizer')!r})"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    task, found = declaration_from_seqio("my_tasks", "mine")
    assert found.fingerprint == tokenizer.fingerprint
    folder = build_store(task, found, tmp_path / "out", show_progress=False)
    expected = {(*tokenizer.encode(f"x = {i}").tolist(), tokenizer.special_tokens.eod) for i in range(50)}
    assert store_documents(folder / "train") | store_documents(folder / "validation") == expected
    assert declaration_for("mine", tmp_path / "out").tasks == (task,)
    assert ensure_store(task, tokenizer, tmp_path / "out") == folder
    assert "--module=my_tasks --task=mine" in rebuild_command(task, "out")
    for name, message in (("bytes", "ByteVocabulary"), ("other", "there are bytes, control, mine")):
        with pytest.raises(UserError, match=message):
            declaration_from_seqio("my_tasks", name)
    control, _ = declaration_from_seqio("my_tasks", "control")
    with pytest.raises(UserError, match="example 0: its targets are not the tokens of a text"):
        build_store(control, tokenizer, tmp_path / "out", show_progress=False)
    with pytest.raises(UserError, match="module no_such is not on the Python path"):
        declaration_from_seqio("no_such", "mine")
    (tmp_path / "my_tasks.py").write_text(MODULE + "\n# changed")
    with pytest.raises(UserError, match="the source's files changed"):
        ensure_store(task, tokenizer, tmp_path / "out")


def write_tfds(tfds, folder) -> None:
    """A prepared dataset, as TFDS leaves it on disk."""
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": np.int64})
    with tf.io.TFRecordWriter(str(folder / "tiny_texts-train.tfrecord-00000-of-00001")) as writer:
        for text in TEXTS:
            writer.write(features.serialize_example(features.encode_example({"text": text, "label": 0})))
    split = tfds.core.SplitInfo(name="train", shard_lengths=[len(TEXTS)], num_bytes=0)
    tfds.folder_dataset.write_metadata(data_dir=str(folder), features=features, split_infos=[split])


def test_tfds_is_read_and_known_by_its_version(tmp_path, tokenizer):
    tfds = pytest.importorskip("tensorflow_datasets")
    write_tfds(tfds, tmp_path / "tfds" / "tiny_texts" / "1.0.0")
    (task,) = declaration_for(f"tfds:tiny_texts?data_dir={tmp_path}/tfds").tasks
    folder = build_store(task, tokenizer, tmp_path / "out", show_progress=False)
    expected = {tuple(tokenizer.encode(text.replace("\r\n", "\n"))) for text in TEXTS}
    found = store_documents(folder / "train") | store_documents(folder / "validation")
    assert {document[:-1] for document in found} == expected
    for field, message in (("code", "no field code; it has"), ("label", "field label is not text")):
        with pytest.raises(UserError, match=message):
            build_store(
                declaration_for(f"tfds:tiny_texts?data_dir={tmp_path}/tfds&field={field}").tasks[0], tokenizer, tmp_path
            )
    for split in ("trian", "train[:x]"):
        (task,) = declaration_for(f"tfds:tiny_texts?data_dir={tmp_path}/tfds&split={split}").tasks
        with pytest.raises(UserError, match=r"(?s)no split=tr.*; it has train$"):
            build_store(task, tokenizer, tmp_path / "out2", show_progress=False)
    with pytest.raises(UserError, match="does not load"):
        build_store(declaration_for(f"tfds:no_such_set?data_dir={tmp_path}/tfds").tasks[0], tokenizer, tmp_path)


def test_exact_match_counts_whole_documents():
    assert exact_match([[1, 2], [3]], [[1, 2], [4]]) == {"exact_match": 0.5}
