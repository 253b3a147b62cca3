"""A store that Apache Beam makes is, file for file, the one that a single process makes."""

import dataclasses
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching.build import build_store
from t5x_code.errors import UserError
from t5x_code.tokens import train_bpe

TEXTS = [f"def f{i}(x):\n    return x + {i}\n" * (1 + i % 5) for i in range(300)]
WORKERS = ("direct_num_workers=2", "direct_running_mode=multi_processing")


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe.train(TEXTS, vocab_size=300, num_masks=4)


@pytest.fixture
def task(tmp_path):
    """Three files, one compressed, with duplicates, lines that are no documents and an empty text."""
    for number, part in enumerate((TEXTS[:120], TEXTS[100:], ["", *TEXTS[:5]])):
        lines = "\n".join([*(json.dumps({"text": text}) for text in part), "not json", '{"other": 1}'])
        file = tmp_path / f"part{number}.jsonl.gz"
        file.write_bytes(gzip.compress(lines.encode()))
    (task,) = declaration_for(f"jsonl:{tmp_path}/part*.jsonl.gz").tasks
    return dataclasses.replace(task, validation_fraction=0.1)


def files_under(folder) -> dict[str, bytes]:
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def build_both(tmp_path, task, tokenizer, options):
    beam = pytest.importorskip("t5x_code.data.caching.beam", reason="the extra beam is not installed")
    sizes = {"shard_text_bytes": 2000}  # several shards
    here = build_store(task, tokenizer, tmp_path / "here", show_progress=False, **sizes)
    there = beam.build_store_with_beam(
        task, tokenizer, tmp_path / "there", runner="DirectRunner", options=options, **sizes
    )
    return files_under(here), files_under(there)


def test_the_same_store_as_in_one_process(tmp_path, task, tokenizer):
    here, there = build_both(tmp_path, task, tokenizer, ())
    assert here == there
    manifest = json.loads(there["train/manifest.json"])
    assert len(manifest["shard_tokens"]) > 4 and manifest["duplicates"] > 0
    assert manifest["skipped"] == {"empty": 1, "no field text": 3, "not JSON": 3}
    assert not [path for path in (tmp_path / "there").iterdir() if path.name.startswith(".")]


def test_a_source_without_documents_leaves_nothing(tmp_path, tokenizer):
    beam = pytest.importorskip("t5x_code.data.caching.beam", reason="the extra beam is not installed")
    (tmp_path / "empty.jsonl").write_text('{"other": 1}\n')
    (task,) = declaration_for(f"jsonl:{tmp_path}/empty.jsonl").tasks
    with pytest.raises(UserError, match=r"no readable document \(1 no field text\)"):
        beam.build_store_with_beam(task, tokenizer, tmp_path / "out", runner="DirectRunner")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_two_worker_processes_from_the_command_line(tmp_path, task, tokenizer, request):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    tokenizer.save(tmp_path / "tokenizer")
    root = request.config.rootpath

    def cache(output, *flags):
        source = f"--task=jsonl:{tmp_path}/part*.jsonl.gz"
        command = [sys.executable, "launch/cache.py", source, f"--output={output}", f"--tokenizer={tmp_path}/tokenizer"]
        ended = subprocess.run([*command, *flags], cwd=root, capture_output=True, text=True, timeout=240)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return files_under(output)

    two = cache(tmp_path / "two", "--runner=DirectRunner", *(f"--runner_option={option}" for option in WORKERS))
    assert two == cache(tmp_path / "one")


def test_a_tokenizer_is_not_trained_on_what_takes_a_cluster_to_read(tmp_path, task, request):
    """Whose command names the way: a tokenizer of a part of it."""
    command = [sys.executable, "launch/cache.py", f"--task={task.source.kind}:{task.source.path}"]
    command += [f"--output={tmp_path}/out", "--runner=DataflowRunner"]
    ended = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = ended.stderr.splitlines()
    assert "--runner=DataflowRunner needs --tokenizer" in line and "without --runner" in line
