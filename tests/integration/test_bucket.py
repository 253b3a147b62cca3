"""Corpus, tokenizer, stores, runs and models in a bucket, by the command lines that people type, against a server on
the loopback: the same tokens and the same bits as elsewhere, also after a kill and a flipped bit."""

import functools
import importlib.util
import json
import signal
from collections import Counter

import jax
import numpy as np
import pytest
import tensorstore as ts
from command_lines import finish, leaves_of, metrics_of, wait_for_line
from etils import epath
from fake_gcs import FakeGcs

from t5x_code.checkpoints.manager import list_steps, newest_good_step
from t5x_code.checkpoints.model_directory import read_model_directory
from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching.build import build_store
from t5x_code.data.manifest import Manifest
from t5x_code.data.sources.source import read_documents
from t5x_code.evaluation.samples_file import SamplesFile, read_samples
from t5x_code.tokens.tokenizer import Tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gcsfs") is None, reason="gcsfs is not installed (extra gcp or test)"),
]
BUCKET, STEPS = "bucket", 5
ROOT = epath.Path(f"gs://{BUCKET}")
TASK = f"jsonl:{ROOT}/corpus/*.jsonl"


@pytest.fixture(scope="module")
def server(environment):
    with FakeGcs(BUCKET) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def texts(corpus, server) -> list[str]:
    """The corpus, which lies in the bucket in three files."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(corpus.iterdir())]
    for part in range(3):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[part::3])
        (ROOT / "corpus" / f"{part}.jsonl").write_text(lines)
    return texts


@pytest.fixture(scope="module")
def store(script, texts) -> epath.Path:
    """The corpus' token store, in the bucket too."""
    ended = script("cache.py", f"--task={TASK}", f"--output={ROOT}/stores")
    assert ended.code == 0, ended.err
    (task,) = declaration_for(TASK).tasks
    return ROOT / "stores" / task.name


def arguments(name: str) -> list[str]:
    """Of a small run in the bucket."""
    settings = [f"MIXTURE='{TASK}'", f"DATA='{ROOT}/stores'", f"MODEL_DIR='{ROOT}/{name}'", f"TRAIN_STEPS={STEPS}"]
    settings += ["LOG_PERIOD=1", f"EVAL_PERIOD={STEPS}", "CHECKPOINT_PERIOD=1", "OptimizerConfig.ema_decay=0.9"]
    files = ["--gin_file=gin/quickstart.gin", "--gin_file=gin/models/tiny.gin"]
    return [*files, *(f"--gin.{setting}" for setting in settings)]


@pytest.fixture(scope="module")
def whole(script, store) -> epath.Path:
    """A run that nothing disturbed."""
    ended = script("train.py", *arguments("whole"), "--gin.CHECKPOINT_PERIOD=100")
    assert ended.code == 0, ended.err
    return ROOT / "whole"


def flip_one_bit(server: FakeGcs, folder: epath.Path) -> None:
    names = server.names(BUCKET, str(folder.relative_to(ROOT)) + "/")
    largest = max(names, key=lambda name: len(server.objects[BUCKET, name].data))
    content = bytearray(server.objects[BUCKET, largest].data)
    content[len(content) // 2] ^= 1
    server.write((BUCKET, largest), content)


def test_a_corpus_in_a_bucket_gives_the_tokens_of_a_local_one(script, store, texts, tmp_path):
    (folder,) = (ROOT / "stores" / "tokenizers").iterdir()
    tokenizer = Tokenizer.load(str(folder))
    assert tokenizer.fingerprint == Tokenizer.load(str(store / "tokenizer")).fingerprint
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in reversed(texts)))
    (task,) = declaration_for(f"jsonl:{tmp_path}/texts.jsonl").tasks
    local = build_store(task, tokenizer, tmp_path / "stores", show_progress=False)
    for split in ("train", "validation"):
        assert Manifest.read(store / split).checksums == Manifest.read(local / split).checksums
    again = script("cache.py", f"--task={TASK}", f"--output={ROOT}/stores")
    assert again.code == 0 and "tokenizing" not in again.err


def test_a_store_that_is_half_in_its_bucket_is_refused_with_the_command_that_makes_it(script, server, store):
    manifest = (BUCKET, f"stores/{store.name}/validation/manifest.json")
    kept = server.objects.pop(manifest)
    ended = script("train.py", *arguments("refused"))
    server.objects[manifest] = kept
    assert ended.code == 2 and len(ended.error_lines) == 1 and not (ROOT / "refused").exists()
    assert "is not finished" in ended.error_lines[0] and f"--tokenizer={store}/tokenizer" in ended.error_lines[0]


def test_parquet_files_in_a_bucket(server):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = {"content": [f"x = {n}\n" * 50_000 for n in range(40)], "lang": ["Python", "C"] * 20}
    with (ROOT / "stack" / "a" / "0.parquet").open("wb") as file:  # over 5 MB: uploaded in parts, read in ranges
        parquet.write_table(arrow.table(rows), file, compression="none", row_group_size=10, use_dictionary=False)
    (task,) = declaration_for(f"parquet:{ROOT}/stack/*/*.parquet?lang=python").tasks
    assert list(read_documents(task, Counter())) == rows["content"][::2]


def test_killed_then_damaged_a_run_ends_bit_for_bit_as_an_undisturbed_one(script, start, server, whole):
    run = ROOT / "killed"
    first = start("train.py", *arguments("killed"), **server.environment)
    wait_for_line(first, "step 4/")
    first.kill()
    assert finish(first).code == -signal.SIGKILL
    *_, older, newest = list_steps(run / "checkpoints")
    assert newest_good_step(run / "checkpoints") == newest and 2 <= newest <= 4
    flip_one_bit(server, run / "checkpoints" / str(newest))
    server.write((BUCKET, f"killed/checkpoints/{STEPS + 1}/params/of_a_killed_save"), b"half")

    resumed = script("train.py", *arguments("killed"))
    assert resumed.code == 0 and f"resumed at step {older} of {run}" in resumed.err, resumed.err
    assert f"checkpoints/{newest} is left out" in resumed.err
    assert resumed.err.count("left out") == 1  # a save that was killed is no damage
    assert not server.names(BUCKET, f"killed/checkpoints/{STEPS + 1}/")
    assert list_steps(run / "checkpoints") == [STEPS - 1, STEPS]
    assert newest_good_step(run / "checkpoints") == STEPS
    jax.tree.map(np.testing.assert_array_equal, leaves_of(run, STEPS), leaves_of(whole, STEPS))
    assert metrics_of(run) == metrics_of(whole)


def test_a_run_in_a_bucket_is_sampled_shown_and_evaluated(script, whole):
    written = script("generate.py", f"--model_dir={whole}", "--prompt=def read(", "--max_new_tokens=4")
    assert written.code == 0 and written.out.startswith("def read("), written.err
    shown = script("show_run.py", f"--model_dir={whole}")
    assert shown.code == 0 and f"of {whole}" in shown.out and "unigram" in shown.out, shown.err

    evaluate = functools.partial(script, "evaluate.py", f"--model_dir={whole}")
    ended = evaluate("--eval=loss", f"--output={ROOT}/loss.json")
    assert ended.code == 0, ended.err
    metrics, last = json.loads((ROOT / "loss.json").read_text())["metrics"], metrics_of(whole)[-1]
    compared = [name for name in metrics if f"validation/{name}" in last]
    assert compared and all(metrics[name] == pytest.approx(last[f"validation/{name}"], rel=1e-5) for name in compared)

    ended = evaluate("--eval=completion", "--limit=2", "--max_new_tokens=4", f"--output={ROOT}/lines.json")
    assert ended.code == 0, ended.err
    assert json.loads((ROOT / "lines.json").read_text())["num_problems"] == 2


def test_a_model_goes_from_a_bucket_to_hugging_face_and_back(script, server, whole, tmp_path):
    ended = script("convert.py", "export", f"--source={whole}", f"--target={tmp_path}/hf")
    assert ended.code == 0, ended.err
    imported = ROOT / "imported"
    ended = script("convert.py", "import", f"--source={tmp_path}/hf", f"--target={imported}")
    assert ended.code == 0, ended.err
    jax.tree.map(np.testing.assert_array_equal, read_model_directory(imported)[1], read_model_directory(whole)[1])
    assert Tokenizer.load(str(imported / "tokenizer")).encode("x = 1").size
    flip_one_bit(server, imported)
    ended = script("generate.py", f"--model_dir={imported}", "--prompt=x")
    assert ended.code == 2 and len(ended.error_lines) == 1 and "is whole" in ended.error_lines[0]


def test_what_cannot_be_done_is_refused_in_one_line(script, server, whole, tmp_path):
    for name, flags, message in (
        ("convert.py", ["export", f"--source={whole}", f"--target={ROOT}/hf"], "gcloud storage cp"),
        ("convert.py", ["import", f"--source={ROOT}/hf", f"--target={tmp_path}/model"], "gcloud storage cp"),
        ("convert.py", ["import", f"--source={tmp_path}", f"--target={whole}"], "config.json cannot be read"),
        ("generate.py", [f"--model_dir={ROOT}/absent", "--prompt=x"], "is no model directory"),
        (
            "train.py",
            [*arguments("x"), "--gin.MODEL_DIR='gs://no_such_bucket/run'"],
            "cannot write to the run's folder gs://no_such_bucket/run",
        ),
        ("train.py", [*arguments("x"), f"--gin.TOKENIZER='{ROOT}/absent'"], "does not exist"),
        ("cache.py", [f"--task=jsonl:{ROOT}/absent/*.jsonl", f"--output={ROOT}/stores"], "no file at"),
    ):
        before = server.names(BUCKET)
        ended = script(name, *flags)
        assert ended.code == 2 and len(ended.error_lines) == 1 and message in ended.error_lines[0], ended.err
        assert server.names(BUCKET) == before and "Traceback" not in ended.err


def test_samples_are_kept_as_they_are_drawn(server):
    path = f"{ROOT}/samples.jsonl"
    with pytest.raises(KeyboardInterrupt), SamplesFile(path, {"seed": 0}) as file:
        file.add([("a", "x")])
        file.add([("b", "y")])
        raise KeyboardInterrupt
    with SamplesFile(path, {"seed": 0}) as again:
        assert again.samples == {"a": ["x"], "b": ["y"]}
        again.add([("a", "z")])
    assert read_samples(path, "ab") == {"a": ["x", "z"], "b": ["y"]}


def test_what_tensorstore_or_another_process_writes_is_listed_at_once(server):
    folder = ROOT / "listed"
    (folder / "first").write_text("1")
    assert [path.name for path in folder.iterdir()] == ["first"]
    ts.KvStore.open(f"{folder}/").result().write("second", b"22").result()
    assert sorted(path.name for path in folder.iterdir()) == ["first", "second"] and (folder / "second").exists()


def test_a_write_that_another_was_quicker_with_is_refused(server):
    """The server's own test: what OCDBT commits by would otherwise be a promise that nothing keeps."""
    store = ts.KvStore.open(f"{ROOT}/conditional/").result()
    first = store.write("x", b"1").result()
    assert store.write("x", b"2", if_equal=first.generation).result().generation
    lost = store.write("x", b"3", if_equal=first.generation).result()
    assert not lost.generation and first.generation
    assert store.read("x").result().value == b"2"
