"""Whole documents in rows: each once per epoch, never cut, rows full, and their parts as the source gave them."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_code.data.caching.build import build_store
from t5x_code.data.declarations import SPLITS, SourceDeclaration, TaskDeclaration
from t5x_code.data.document import Part, PartedDocument, from_bytes, to_bytes
from t5x_code.data.packing import pack
from t5x_code.data.sources import source
from t5x_code.data.streams import Stream, document_table, plan_rows
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.objectives.example import Layout
from t5x_code.objectives.segments import Segment, lay_out
from t5x_code.tokens import train_bpe

KINDS = ("question", "answer")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=60), st.integers(0, 3), st.sampled_from([None, 1, 3]))
def test_every_document_that_fits_is_once_in_an_epoch(sizes, seed, most):
    sizes_D = np.array(sizes)
    if sizes_D.min() > 64:
        with pytest.raises(UserError, match="no document of at most 64"):
            pack(sizes_D, 64, most, seed, "k", "t")
        return
    packing = pack(sizes_D, 64, most, seed, "k", "t")
    for epoch in (0, 1, 9):
        rows = [packing.documents(epoch, row) for row in range(packing.num_rows)]
        assert sorted(np.concatenate(rows)) == np.flatnonzero(sizes_D <= 64).tolist()
        assert all(0 < sizes_D[row].sum() <= 64 for row in rows)
        assert most is None or max(map(len, rows)) <= most
    assert packing.num_too_long == np.count_nonzero(sizes_D > 64)


def test_neighbours_change_with_epoch_and_seed_and_rows_are_full():
    sizes_D = np.clip(np.random.default_rng(0).lognormal(5, 0.8, 20_000).astype(int), 5, 3000)
    packing, again, other = (pack(sizes_D, 1024, None, seed, "k", "t") for seed in (0, 0, 1))
    first = {tuple(packing.documents(0, row)) for row in range(packing.num_rows)}
    assert first == {tuple(again.documents(0, row)) for row in range(packing.num_rows)}
    for changed, epoch in ((packing, 1), (other, 0)):
        kept = {tuple(changed.documents(epoch, row)) for row in range(changed.num_rows)} & first
        assert len(kept) < 0.02 * packing.num_rows
    assert sizes_D[sizes_D <= 1024].sum() / (packing.num_rows * 1024) > 0.985


@given(st.lists(st.tuples(st.integers(0, 255), st.text(max_size=9))), st.text(max_size=5))
def test_documents_survive_the_spool(parts, group):
    document = PartedDocument(tuple(Part(kind, text) for kind, text in parts), group)
    try:
        data = to_bytes(document)
    except UnicodeEncodeError:
        return
    assert from_bytes(data, parted=True) == document


@dataclasses.dataclass(frozen=True)
class Quiz:
    """Packs whole documents as they are."""

    name = "quiz"
    max_documents = None

    def packed_lengths(self, layout, documents):
        assert documents.kind_names == KINDS
        return documents.lengths_D

    def __call__(self, row, layout, rng):
        return lay_out([Segment(piece.lead, piece.tokens_N) for piece in row.pieces], layout)


def quizzes():
    """Documents with any number of parts, some empty, some repeated; three groups."""
    rng = np.random.default_rng(0)
    for number in range(300):
        parts = [
            Part(int(rng.integers(2)), " ".join(f"w{number}" for _ in range(rng.integers(0, 6))))
            for _ in range(rng.integers(0, 5))
        ]
        parts.insert(int(rng.integers(len(parts) + 1)), Part(0, f"document {number}"))
        yield PartedDocument(tuple(parts), f"problem {number % 30}" if number % 3 else "")


@pytest.mark.parametrize("shard_text_bytes", [1 << 28, 2000])
def test_parts_and_groups_come_back(tmp_path, monkeypatch, shard_text_bytes):
    kind = source.SourceKind(lambda *_: quizzes(), lambda _: [], part_kinds=KINDS)
    monkeypatch.setattr(source, "SOURCES", {**source.SOURCES, "quiz": kind})
    tokenizer = train_bpe.train([document.text for document in quizzes()], 300, 2)
    task = TaskDeclaration("quiz", SourceDeclaration("quiz"), validation_fraction=0.3)
    folder = build_store(task, tokenizer, tmp_path, show_progress=False, shard_text_bytes=shard_text_bytes)
    layout = Layout(128, tokenizer.special_tokens)
    found, groups, num_bytes = [], {}, 0
    for split in SPLITS:
        store = TokenStore.open(folder / split)
        num_bytes += store.manifest.num_bytes
        rows = plan_rows(Stream("quiz/quiz", "quiz", store, Quiz()), layout, 0)
        assert document_table(store).part_lengths_Q.sum() + store.manifest.num_documents == store.manifest.num_tokens
        for number in range(rows.rows_per_epoch):
            example = rows.epoch_example(0, number)
            assert example.segment_ids_L.max() == len(rows.plan.row(0, number).pieces)
            for piece in rows.plan.row(0, number).pieces:
                assert piece.tokens_N[-1] == layout.special_tokens.eod
                parts = np.split(piece.tokens_N[:-1], piece.part_ends)[:-1]
                assert sum(map(len, parts)) == len(piece.tokens_N) - 1
                found.append([[int(k), tokenizer.decode(p)] for k, p in zip(piece.part_kinds, parts, strict=True)])
                if piece.group:
                    groups.setdefault(piece.group, set()).add(split)
    expected = [[[part.kind, part.text] for part in document.parts] for document in quizzes()]
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, expected))
    assert num_bytes == sum(len(text.encode()) for document in expected for _, text in document)
    assert len(groups) == 20 and all(len(splits) == 1 for splits in groups.values())
    assert set().union(*groups.values()) == set(SPLITS)
