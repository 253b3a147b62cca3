"""Each kind of source, against files made here; and what is skipped, counted or refused."""

import gzip
import inspect
import json
import os
import shutil
import sysconfig
import threading
from collections import Counter
from pathlib import Path

import pytest
from etils import epath

from t5x_code.data.builtin_tasks import PYTHON_DOCS, PYTHON_STDLIB, declaration_for
from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.sources import files, jsonl, source
from t5x_code.data.sources.files import SourceFile, find_files, read_text
from t5x_code.data.sources.source import END_BYTES, HASHED_BYTES, read_documents, source_fingerprint, source_kind
from t5x_code.errors import UserError


def read(name: str) -> tuple[list[str], Counter]:
    skipped: Counter = Counter()
    (task,) = declaration_for(name).tasks
    return list(read_documents(task, skipped)), skipped


def lines_of(texts, field="text") -> bytes:
    return b"".join(json.dumps({field: text}).encode() + b"\n" for text in texts)


def test_jsonl_plain_and_compressed_are_the_same(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    texts = [f"document {i}: ß\n" * 50 for i in range(300)]
    data = lines_of(texts)
    frames = b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:1000], data[1000:]))
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "c.jsonl.zst").write_bytes(frames)
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst"):
        assert read(f"jsonl:{tmp_path / name}") == (texts, Counter())
    assert read(f"jsonl:{tmp_path}")[0] == texts * 3
    assert read(f"jsonl:{tmp_path}/[ab]*")[0] == texts * 2
    assert read(f"jsonl:{tmp_path.parent}/**/a.jsonl")[0] == texts


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.py", ["a.py"]),
        ("[ab].py", ["a.py"]),
        ("*/*.py", ["b/c.py"]),
        ("b/*.py", ["c.py"]),
        ("**/*.py", ["a.py", "b/c.py"]),
    ],
)
def test_a_relative_pattern_may_begin_with_its_wildcard(tmp_path, monkeypatch, pattern, names):
    (tmp_path / "b").mkdir()
    for name in ("a.py", "b/c.py"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    assert [file.name for file in find_files(pattern, (".py",))] == names


def test_bad_lines_are_counted_by_reason(tmp_path):
    bad = [
        b"{broken\n",
        b"[" * 100_000 + b"\n",
        b"\n",
        b'"no object"\n',
        b'{"other": 1}\n',
        b'{"text": 3}\n',
        b'{"text": "  "}\n',
        b'{"text": "\xff"}\n',
        b'{"text": "\\ud800"}\n',
    ]
    long_number = b'{"text": "good", "number": ' + b"9" * 5000 + b"}\n"
    (tmp_path / "a.jsonl").write_bytes(b"".join(bad) + lines_of(["good\r\n"]) + long_number)
    texts, skipped = read(f"jsonl:{tmp_path}")
    assert texts == ["good\n", "good"]
    assert skipped == {
        "not JSON": 2,
        "no field text": 2,
        "field text is not text": 1,
        "empty": 1,
        "not UTF-8": 2,
    }


def test_pairs_are_the_same_with_any_line_ends(tmp_path):
    code = "def f(x):\n    if x:\n        return 1\n    return 2\n"
    found = []
    for number, end in enumerate(("\n", "\r\n", "\r")):
        pair = {"docstring": "One thing.\nAnother.".replace("\n", end), "code": code.replace("\n", end)}
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(pair) + "\n")
        documents, _ = read(f"jsonl_pairs:{tmp_path}/{number}.jsonl")
        found += documents
    assert found == [found[0]] * 3


def test_pairs_without_code_are_left_out_and_counted(tmp_path):
    pairs = [("Gives x.", "def f(x):\n    return x\n"), ("Gives x.", ""), ("Gives x.", "\n")]
    lines = [json.dumps({"docstring": docstring, "code": code}) for docstring, code in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    documents, skipped = read(f"jsonl_pairs:{tmp_path}/pairs.jsonl")
    assert len(documents) == 1 and skipped == {"no code": 2}


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_archive_is_refused(tmp_path, suffix):
    zstandard = pytest.importorskip("zstandard")
    compress = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor().compress
    whole = compress(lines_of(["text"] * 1000))
    file = tmp_path / f"a.jsonl{suffix}"
    for damaged in (whole[: len(whole) // 2], whole[:-1], b"not an archive"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read to its end"):
            read(f"jsonl:{file}")


def test_text_files_filter_skip_and_count(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "x.py").write_text("\ufeffx = 1\n")
    (tmp_path / "a.go").write_text("package a\n")
    (tmp_path / "c.py").write_bytes(b"\xff\xfe")
    (tmp_path / "d.py").write_text("\n \n")
    (tmp_path / "e.bin").write_bytes(b"1")
    (tmp_path / ".git" / "f.py").write_text("hidden")
    assert read(f"text_files:{tmp_path}") == (["package a\n", "x = 1\n"], Counter({"not UTF-8": 1, "empty": 1}))
    assert read(f"text_files:{tmp_path}?suffix=.go")[0] == ["package a\n"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text(name)
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "a/gone.py").symlink_to("nowhere.py")
    texts, skipped = read(f"text_files:{tmp_path}")
    assert sorted(texts) == ["a", "a", "b", "b"] and not skipped  # each once where it lies, once by a link


def test_a_buckets_files_are_asked_for_at_once(monkeypatch):
    """Each answer takes tens of milliseconds, and a corpus has thousands of files."""
    waiting, several = [], threading.Event()

    def slow_read(path, start, stop):
        waiting.append((start, stop))
        if len(waiting) > 3:
            several.set()
        assert several.wait(10)
        return path.name.encode()

    paths = [epath.Path(f"gs://bucket/{'x' * number}.jsonl") for number in range(1, 9)]
    found = [SourceFile(path.name, path, HASHED_BYTES) for path in paths]
    monkeypatch.setattr(source, "read_span", slow_read)
    monkeypatch.setattr(jsonl, "find_files", lambda *arguments: found)
    state = source_kind(SourceDeclaration("jsonl")).state(SourceDeclaration("jsonl"))
    assert [[name, size] for name, size, _ in state] == [[path.name, HASHED_BYTES] for path in paths]
    assert len({known for *_, known in state}) == len(paths)
    assert Counter(waiting) == {(0, END_BYTES): 8, (HASHED_BYTES - END_BYTES, HASHED_BYTES): 8}


def test_a_bucket_out_of_reach_drops_no_document(tmp_path, monkeypatch):
    """Which would make a smaller store, and nobody would know."""
    (tmp_path / "a.py").write_text("x = 1")
    (task,) = declaration_for(f"text_files:{tmp_path}").tasks
    path = epath.Path(tmp_path / "a.py")

    def fail(path, *span):
        raise error

    monkeypatch.setattr(type(path), "read_bytes", fail)
    monkeypatch.setattr(source, "read_span", fail)
    error = TimeoutError()
    assert not list(read_text(path, skipped := Counter())) and skipped == {"not readable": 1}
    ((_, _, known),) = source_kind(task.source).state(task.source)
    assert known == "not readable"
    monkeypatch.setattr(files, "in_bucket", lambda path: True)
    with pytest.raises(TimeoutError):
        list(read_text(path, Counter()))
    with pytest.raises(TimeoutError):
        source_fingerprint(task.source)
    error = FileNotFoundError()  # removed since it was listed
    assert not list(read_text(path, skipped)) and skipped == {"not readable": 2}


def test_parquet_filters_by_language(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [("Python", "x = 1"), ("C#", "class A {}"), ("C++", "int x;"), ("C", "int y;"), (None, "z"), ("C#", None)]
    table = pyarrow.table({"lang": [row[0] for row in rows], "content": [row[1] for row in rows]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert read(f"parquet:{tmp_path}?lang=c-sharp,c") == (
        ["class A {}", "int y;"],
        Counter({"column content is not text": 1}),
    )
    assert len(read(f"parquet:{tmp_path}")[0]) == 5
    with pytest.raises(UserError, match="no column text; it has lang, content"):
        read(f"parquet:{tmp_path}?field=text")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-20])
    with pytest.raises(UserError, match="cannot be read to its end"):
        read(f"parquet:{tmp_path}")


def test_parquet_of_another_encoding_is_counted(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = pyarrow.array([b"x = 1", b"\xff", b"y = 2"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"content": texts, "lang": [3, 3, 4]}), tmp_path / "a.parquet")
    assert read(f"parquet:{tmp_path}") == (["x = 1", "y = 2"], Counter({"not UTF-8": 1}))
    assert read(f"parquet:{tmp_path}?lang=4")[0] == ["y = 2"]


def test_missing_and_empty_sources_are_refused(tmp_path):
    for name in (f"jsonl:{tmp_path}/none/*.jsonl", f"text_files:{tmp_path}/none", f"parquet:{tmp_path}"):
        with pytest.raises(UserError, match="no file at"):
            read(name)
    with pytest.raises(UserError, match=r"no file at|no pattern for files"):  # the latter before Python 3.13
        read(f"text_files:{tmp_path}/**.py")
    (tmp_path / "a.py").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"no readable document \(1 not UTF-8\)"):
        read(f"text_files:{tmp_path}")


def test_where_a_field_is_missing_its_option_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x = 1"}\n')
    with pytest.raises(UserError, match=r"1 no field text\); name it, as in jsonl:PATH\?field=content"):
        read(f"jsonl:{tmp_path}/a.jsonl")
    with pytest.raises(UserError, match=r"\); name them, as in jsonl_pairs:PATH\?docstring=doc&code=body"):
        read(f"jsonl_pairs:{tmp_path}/a.jsonl")


def test_the_standard_library_comes_without_its_tests():
    texts = set(read_documents(PYTHON_STDLIB, Counter()))
    root = Path(sysconfig.get_paths()["stdlib"])
    assert (root / "json" / "decoder.py").read_text() in texts
    assert (root / "heapq.py").read_text() in texts
    assert not [text for text in texts if "import unittest\n" in text and "from test import support\n" in text]
    assert sum(map(len, texts)) > 8e6


def test_docs_are_prose_of_topics_docstrings_and_packages():
    texts = list(read_documents(PYTHON_DOCS, Counter()))
    whole = "\n".join(texts)
    assert 'The "assert" statement' in whole
    for documented in (json.JSONDecoder, json.JSONDecoder.raw_decode, gzip.open):
        name = f"{documented.__module__}.{documented.__qualname__}"
        assert f"{name}\n\n{inspect.getdoc(documented)}\n" in whole
    assert inspect.getsource(gzip.open) not in whole
    assert sum(map(len, texts)) > 2e6


def test_fingerprint_follows_content_and_not_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("x = 1")
    sources = [declaration_for(f"text_files:{tmp_path}/{name}").tasks[0].source for name in ("a", "b")]
    first = source_fingerprint(sources[0])
    assert first == source_fingerprint(sources[1])
    (tmp_path / "a" / "x.py").write_text("x = 2")
    assert source_fingerprint(sources[0]) != first
    (tmp_path / "b" / "x.py").rename(tmp_path / "b" / "y.py")
    assert source_fingerprint(sources[1]) != first


def test_a_large_source_is_known_by_its_files_ends_and_not_by_their_times(tmp_path, monkeypatch):
    """A copy has other times, in a bucket as on another disk."""
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "from").mkdir(exist_ok=True)
        (tmp_path / "from" / name).write_bytes(bytes(range(100)) * 2)
        os.utime(tmp_path / "from" / name, (1e9, 1e9))
    shutil.copytree(tmp_path / "from", tmp_path / "to", copy_function=shutil.copyfile)
    before, after = (SourceDeclaration("jsonl", f"{tmp_path}/{folder}/*.jsonl") for folder in ("from", "to"))
    whole, spans, read_span = source_fingerprint(before), [], source.read_span
    monkeypatch.setattr(source, "HASHED_BYTES", 200)
    monkeypatch.setattr(source, "read_span", lambda path, *span: spans.append(span) or read_span(path, *span))
    first = source_fingerprint(before)
    assert first == source_fingerprint(after) != whole
    assert spans == [(0, 50), (150, 200)] * 4  # more files would be read less of
    monkeypatch.setattr(source, "END_BYTES", 10)
    first = source_fingerprint(before)
    assert spans[8:] == [(0, 10), (190, 200)] * 2
    content = bytes(range(100)) * 2
    for changed in (b"x" + content[1:], content[:-1] + b"x", content + b"x"):
        (tmp_path / "to/b.jsonl").write_bytes(changed)
        assert source_fingerprint(after) != first
