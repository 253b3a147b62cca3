"""A missing store is made in a child process, a stale one is refused with the reason, a killed maker leaves nothing."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from etils import epath

from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching import child
from t5x_code.data.caching import embedded_tokenizer as tokenizer_module
from t5x_code.data.caching.build import UNKNOWN, build_store, remove_leftovers, temporary_folder
from t5x_code.data.caching.document_hash import document_hash, split_of
from t5x_code.data.caching.embedded_tokenizer import embedded_tokenizer, sample_documents
from t5x_code.data.caching.ensure import build_in_child_process, ensure_store, rebuild_command
from t5x_code.data.manifest import Manifest
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import RunAgain, UserError
from t5x_code.tokens import train_bpe

TEXTS = [f"def f{i}(x):\n    return x + {i}\n" * 3 for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe.train(TEXTS, vocab_size=300, num_masks=4)


@pytest.fixture
def task(tmp_path):
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    (task,) = declaration_for(f"jsonl:{tmp_path}/data.jsonl").tasks
    return task


def test_a_missing_store_is_made_in_a_child_process(tmp_path, task, tokenizer):
    root = tmp_path / "out"
    folder = ensure_store(task, tokenizer, root)
    assert folder == root / task.name
    here = build_store(task, tokenizer, tmp_path / "here", show_progress=False)
    assert Manifest.read(folder / "train") == Manifest.read(here / "train")
    before = (folder / "train" / "manifest.json").stat().mtime
    assert ensure_store(task, tokenizer, root) == folder
    assert (folder / "train" / "manifest.json").stat().mtime == before


def test_a_stale_store_names_what_changed(tmp_path, task, tokenizer):
    root = tmp_path / "out"
    build_store(task, tokenizer, root, show_progress=False)
    with pytest.raises(UserError, match="stale: the tokenizer changed") as caught:
        ensure_store(task, train_bpe.train(TEXTS, vocab_size=310, num_masks=4), root)
    assert rebuild_command(task, root) in str(caught.value)
    flags = ["--tokenizer=a tokenizer", "--python_words"]
    (root / task.name / "validation" / "manifest.json").unlink()
    with pytest.raises(UserError, match="is not finished") as caught:
        ensure_store(task, tokenizer, root, tokenizer_flags=flags)
    command = shlex.split(str(caught.value).rpartition("make it again: ")[2])
    assert command == shlex.split(rebuild_command(task, root, flags))
    assert set(flags) < set(command) and f"--task=jsonl:{tmp_path}/data.jsonl" in command
    others = ["--mbpp=mb.jsonl", "--runner=DirectRunner", "--runner_option=a=b", "--runner_option=c=d"]
    with pytest.raises(UserError, match="is not finished") as caught:
        ensure_store(task, tokenizer, root, tokenizer_flags=flags, other_flags=others)
    assert set(flags + others) < set(shlex.split(str(caught.value).rpartition("make it again: ")[2]))
    build_store(task, tokenizer, root, overwrite=True, show_progress=False)
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write('\n{"text": "new"}')
    with pytest.raises(UserError, match="stale: the source's files changed"):
        ensure_store(task, tokenizer, root)
    (tmp_path / "data.jsonl").unlink()
    assert ensure_store(task, tokenizer, root) == root / task.name  # a finished store needs no source


def test_a_store_that_another_process_makes_meanwhile_is_taken(tmp_path, task, tokenizer):
    def build_second(task, tokenizer, root):
        build_store(task, tokenizer, root, show_progress=False)
        return build_store(task, tokenizer, root, show_progress=False)

    assert ensure_store(task, tokenizer, tmp_path / "out", build_second) == tmp_path / "out" / task.name
    with pytest.raises(UserError, match="exists"):
        build_second(task, tokenizer, tmp_path / "out")


def test_a_store_that_another_process_made_of_something_else_is_not_taken(tmp_path, task, tokenizer):
    """The builder keeps what it finds there in the end."""
    other = train_bpe.train(TEXTS, vocab_size=310, num_masks=4)

    def build_late(task, tokenizer, root):
        return build_store(task, other, root, show_progress=False)

    with pytest.raises(UserError, match="stale: the tokenizer changed"):
        ensure_store(task, tokenizer, tmp_path / "out", build_late)


def test_the_childs_complaint_reaches_the_caller(tmp_path, task, tokenizer):
    (tmp_path / "data.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"no readable document \(1 not JSON\)"):
        build_in_child_process(task, tokenizer, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        ("ConnectionError('no route')", RunAgain, "gs:// cannot be reached: no route"),
        ("OSError('Forbidden: b/x')", UserError, "the bucket refuses .*Forbidden: b/x"),
    ],
)
def test_a_bucket_that_the_child_cannot_reach(tmp_path, task, tokenizer, monkeypatch, error, expected, says):
    """What may pass is not said to be bad input, after which nobody starts the run again."""
    of_gcsfs = {"__name__": "gcsfs.core"}
    exec(f"def build_store(*arguments):\n    raise {error}", of_gcsfs)
    monkeypatch.setattr(child, "build_store", of_gcsfs["build_store"])

    class InThisProcess:
        stdin = io.BytesIO()

        def __init__(self, command, **options):
            self.status = child.main(Path(command[-1]))

        def wait(self):
            return self.status

        def kill(self):
            pass

    monkeypatch.setattr(subprocess, "Popen", InThisProcess)
    with pytest.raises(expected, match=says):
        build_in_child_process(task, tokenizer, tmp_path / "out")


@pytest.fixture
def large(tmp_path):
    """Seconds of work."""
    lines = (json.dumps({"text": f"{i}\n" + TEXTS[0] * 10}) for i in range(30_000))
    (tmp_path / "large.jsonl").write_text("\n".join(lines))
    (task,) = declaration_for(f"jsonl:{tmp_path}/large.jsonl").tasks
    return task


def wait_for_maker(root: Path) -> int:
    """The number of the process that begins to make a store there."""
    deadline = time.monotonic() + 60
    while not (making := list(root.glob(".*.making.*"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return int(making[0].name.rpartition(".")[2])


def test_a_killed_child_leaves_nothing_that_is_read(tmp_path, large, tokenizer):
    root = tmp_path / "out"
    killer = threading.Thread(target=lambda: os.kill(wait_for_maker(root), signal.SIGKILL))
    killer.start()
    with pytest.raises(UserError, match="stopped by SIGKILL"):
        build_in_child_process(large, tokenizer, root)
    killer.join()
    assert not list(root.iterdir())
    with pytest.raises(UserError, match="does not exist"):
        TokenStore.open(root / large.name / "train")


def test_a_child_ends_with_its_parent(tmp_path, large, tokenizer):
    """Which would else go on for hours, and make a second one wait for the same memory and disk."""
    root, temporary = tmp_path / "out", tmp_path / "temporary"
    child.write_request(tmp_path, large, str(root))
    tokenizer.save(tmp_path)
    temporary.mkdir()
    program = (
        "import json, sys; from t5x_code.data.caching.ensure import build_in_child_process;"
        "from t5x_code.data.declarations import TaskDeclaration; from t5x_code.tokens.tokenizer import Tokenizer;"
        f"request = json.load(open('{tmp_path}/{child.REQUEST_FILE}'));"
        f"task, tokenizer = TaskDeclaration.from_json(request['task']), Tokenizer.load('{tmp_path}');"
        "build_in_child_process(task, tokenizer, request['root'])"
    )
    environment = os.environ | {"PYTHONPATH": child.import_path(), "TMPDIR": str(temporary)}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
    wait_for_maker(root)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while list(root.iterdir()) and time.monotonic() < deadline:
        remove_leftovers(root / large.name)
        time.sleep(0.02)
    assert not list(root.iterdir()) and not list(temporary.iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the start of a process is read from /proc")
def test_a_leftover_whose_makers_number_another_process_has_is_removed(tmp_path):
    target = epath.Path(tmp_path / "store")
    with temporary_folder(target) as mine:
        *_, started, _ = mine.name.split(".")
        of_parent = mine.with_name(mine.name.replace(f"{started}.{os.getpid()}", f"{{started}}.{os.getppid()}"))
    now = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    for by, stays in ((now, True), (UNKNOWN, True), (str(int(now) - 1), False)):
        folder = Path(str(of_parent).format(started=by))
        folder.mkdir()
        remove_leftovers(target)
        assert folder.exists() == stays


def test_the_embedded_tokenizer_is_trained_once_per_corpus(tmp_path, task):
    folder = Path(embedded_tokenizer(tmp_path / "root", [task]))
    made = (folder / "tokenizer.json").stat().st_mtime_ns
    assert Path(embedded_tokenizer(tmp_path / "root", [task])) == folder
    assert (folder / "tokenizer.json").stat().st_mtime_ns == made
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": "else"}) + "\n" + json.dumps({"text": "and more"}))
    assert Path(embedded_tokenizer(tmp_path / "root", [task])) != folder
    assert sorted(path.name[0] for path in (tmp_path / "root" / "tokenizers").iterdir()) != ["."]


def test_a_tokenizer_for_which_there_is_no_room_leaves_nothing(mount, task):
    disk = mount("size=8k")
    with pytest.raises(UserError, match=r"cannot write the tokenizer .* \(No space left on device\)"):
        embedded_tokenizer(disk, [task])
    assert not list((disk / "tokenizers").iterdir())


def test_a_killed_child_leaves_no_temporary_files(tmp_path, task, tokenizer, monkeypatch):
    """It spools the documents of a store in a bucket to the local disk: as much as the corpus."""
    program = "import os, pathlib, sys, tempfile; made = tempfile.mkdtemp(); pathlib.Path(sys.argv[1]).write_text(made)"
    spooled, start = tmp_path / "spooled", subprocess.Popen

    def popen(command, **options):
        return start([command[0], "-c", f"{program}; os.kill(os.getpid(), 9)", str(spooled)], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(UserError, match="stopped by SIGKILL"):
        build_in_child_process(task, tokenizer, tmp_path / "out")
    assert not Path(spooled.read_text()).exists()


def test_the_sample_is_the_lowest_hashes_within_its_size(task):
    hashes = {text: document_hash(task.store_seed, text.encode()) for text in TEXTS}
    expected = [text for text in TEXTS if split_of(hashes[text], task.validation_fraction) == "train"]
    expected.sort(key=hashes.get)
    assert sample_documents(task, 1 << 30) == expected
    size = sum(len(text) for text in expected[:50])
    assert sample_documents(task, size) == expected[:50]
    assert sample_documents(task, size + 9) == [*expected[:50], expected[50][:9]]


def test_a_sample_remembers_only_its_own_documents(monkeypatch, task):
    texts = [f"document {i}" for i in range(20_000)]
    monkeypatch.setattr(tokenizer_module, "read_documents", lambda task, skipped: iter(texts + texts))
    tracemalloc.start()
    sample = sample_documents(task, 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sample) == len(set(sample)) and sum(map(len, sample)) == 1000
    assert peak < 1 << 20


def test_one_large_document_leaves_no_sample_empty(tmp_path):
    (tmp_path / "large.txt").write_text("é def f(x):\n" * 10_000)
    (task,) = declaration_for(f"text_files:{tmp_path}/large.txt").tasks
    (text,) = sample_documents(task, 50_001)
    assert 50_000 <= len(text.encode()) <= 50_001
