"""Rows of a stream: every token once per epoch, documents as they are, another order and other cuts each epoch."""

import dataclasses

import numpy as np
import pytest
from memory_store import EOD, MemoryStore, random_lengths

from t5x_code.data.streams import Stream, plan_rows
from t5x_code.errors import UserError
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Layout
from t5x_code.tokens.special_tokens import SpecialTokens

LAYOUT = Layout(64, SpecialTokens(EOD, 1, 2, ()))


def rows_of(lengths, num_shards=1, seed=0):
    """A stream whose store counts its tokens: token i is i + 1, so that a row tells where it comes from."""
    return plan_rows(Stream("code", "code", MemoryStore(lengths, num_shards), CausalLM()), LAYOUT, seed)


CASES = [
    ([5], 1),
    ([1], 1),
    ([63, 1], 1),
    ([64], 1),
    ([64, 64], 2),
    ([1000], 1),
    ([1] * 200, 3),
    ([200, 3], 4),  # more shards than documents
    (random_lengths(200), 5),
]


@pytest.mark.parametrize("lengths, num_shards", CASES)
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_each_token_is_once_in_an_epoch(lengths, num_shards, epoch):
    rows = rows_of(lengths, num_shards)
    first = epoch * rows.rows_per_epoch
    targets = [rows.example(first + i) for i in range(rows.rows_per_epoch)]
    seen = np.concatenate([example.targets_L[example.segment_ids_L > 0] for example in targets])
    np.testing.assert_array_equal(np.sort(seen), np.arange(1, np.sum(lengths) + 1))


@pytest.mark.parametrize("lengths, num_shards", CASES)
def test_pieces_are_documents_cut_only_at_row_ends(lengths, num_shards):
    rows = rows_of(lengths, num_shards)
    ends = set(np.cumsum(lengths).tolist())
    for number in range(rows.rows_per_epoch):
        row = rows.plan.row(3, number)
        assert 0 < row.num_tokens <= rows.plan.raw_length
        for piece in row.pieces:
            first, last = int(piece.tokens_N[0]), int(piece.tokens_N[-1])
            np.testing.assert_array_equal(piece.tokens_N, np.arange(first, last + 1))
            assert ends.isdisjoint(range(first, last))  # no document ends inside
            assert piece.is_end == (last in ends)
            assert piece.is_start == (first == 1 or first - 1 in ends)
            assert piece.lead == (EOD if piece.is_start else first - 1)


def test_order_and_cuts_change_with_epoch_seed_and_name_only():
    lengths = random_lengths(100)
    rows = rows_of(lengths, 2)
    n = rows.rows_per_epoch

    def starts(rows, epoch):
        return [int(rows.example(epoch * n + i).targets_L[0]) for i in range(n)]

    assert starts(rows, 0) == starts(rows_of(lengths, 2), 0)
    assert sorted(starts(rows, 0)) != starts(rows, 0)
    for other in (starts(rows, 1), starts(rows_of(lengths, 2, seed=1), 0)):
        assert len(set(other) & set(starts(rows, 0))) < n / 4  # cut elsewhere
    ranks = [np.argsort(np.argsort(starts(rows, epoch))) for epoch in (0, 1)]
    assert np.mean(ranks[0] == ranks[1]) < 0.1  # another order, too
    renamed = plan_rows(Stream("code/other", "code", MemoryStore(lengths, 2), CausalLM()), LAYOUT, 0)
    assert starts(renamed, 0) != starts(rows, 0)  # another objective of the same task
    assert sorted(starts(renamed, 0)) == sorted(starts(rows, 0))
    other = plan_rows(Stream("code", "code", MemoryStore(lengths, 2, fingerprint="cd34"), CausalLM()), LAYOUT, 0)
    assert len(set(starts(other, 0)) & set(starts(rows, 0))) < n / 4


@dataclasses.dataclass(frozen=True)
class Dice:
    """An objective that tells what it draws instead of making an example."""

    name: str = "dice"
    sides: int = 2**62

    def raw_length(self, layout, document_lengths_N):
        return layout.length

    def __call__(self, row, layout, rng):
        return int(rng.integers(self.sides))


def test_what_is_drawn_for_a_row_is_its_own_in_every_epoch():
    def throws(objective=Dice(), seed=0, fingerprint="ab12", name="code"):
        store = MemoryStore([64] * 3, fingerprint=fingerprint)
        rows = plan_rows(Stream(f"{name}/dice", name, store, objective), LAYOUT, seed)
        return [rows.epoch_example(epoch, number) for epoch in range(3) for number in range(3)]

    changes = [throws(), throws(seed=1), throws(fingerprint="cd34"), throws(Dice("other")), throws(Dice(sides=2**61))]
    assert len({throw for of_one in changes for throw in of_one}) == 9 * len(changes)
    assert throws(name="moved") == throws()


def test_fifty_epochs_cut_at_many_places():
    rows = rows_of(random_lengths(100))
    firsts = {int(rows.plan.row(epoch, 0).pieces[0].tokens_N[0]) for epoch in range(50)}
    assert len(firsts) > 25


def test_an_empty_store_is_refused():
    with pytest.raises(UserError, match=r"store of task code .* is empty"):
        rows_of([])
