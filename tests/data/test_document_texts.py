"""Documents of a store as text."""

import errno
import json
import os
from pathlib import Path

import pytest

from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching.build import build_store
from t5x_code.data.declarations import SPLITS
from t5x_code.data.document_texts import document_texts, held_out_texts
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.tokens import train_bpe
from t5x_code.tokens.special_tokens import PAIR_TEXTS


def test_pairs_give_their_code_whole_with_or_without_a_docstring(tmp_path):
    codes = [f"def f{number}(x):\n    return x + {number}\n" for number in range(40)]
    records = [{"docstring": "Adds." if number % 2 else "", "code": code} for number, code in enumerate(codes)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (task,) = declaration_for(f"jsonl_pairs:{tmp_path}/pairs.jsonl").tasks
    tokenizer = train_bpe.train(codes, 400, 2, PAIR_TEXTS)
    folder = build_store(task, tokenizer, tmp_path / "stores", show_progress=False)
    texts = [text for split in SPLITS for text in document_texts(TokenStore.open(folder / split), tokenizer)]
    assert sorted(texts) == sorted(codes)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("x = 1\n")
    assert list(held_out_texts(str(tmp_path))) == ["x = 1\n"]

    def refused(path, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_text", refused)  # root may read all
    with pytest.raises(UserError, match=r"a\.py cannot be read: Permission denied"):
        list(held_out_texts(str(tmp_path)))
