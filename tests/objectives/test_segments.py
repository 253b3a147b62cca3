"""Segments side by side: the arrays by hand, and the attention intervals against a dense mask."""

import numpy as np
import pytest

from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.objectives.segments import Segment, lay_out, split_ids
from t5x_code.tokens.modality import CODE_MODALITY, TEXT_MODALITY, split_vocabulary
from t5x_code.tokens.special_tokens import SpecialTokens

SPECIAL = SpecialTokens(eod=0, sep=1, eom=2, masks=(3, 4))


def segments_of(lengths, prefixes):
    return [
        Segment(lead=100 + n, targets_N=np.arange(10 * n, 10 * n + length, dtype=np.int32), prefix_length=prefix)
        for n, (length, prefix) in enumerate(zip(lengths, prefixes, strict=True))
    ]


def test_arrays_by_hand():
    segments = [
        Segment(0, np.array([11, 12, 13], np.int32), np.array([1, 0, 1], np.float32)),
        Segment(9, np.array([21, 22], np.int32), prefix_length=2),
    ]
    arrays = lay_out(segments, Layout(7, SPECIAL)).arrays()
    expected = {
        "inputs": [0, 11, 12, 9, 21, 0, 0],
        "targets": [11, 12, 13, 21, 22, 0, 0],
        "loss_weights": [1, 0, 1, 1, 1, 0, 0],
        "positions": [0, 1, 2, 0, 1, 0, 0],
        "segment_ids": [1, 1, 1, 2, 2, 0, 0],
        "attend_from": [0, 0, 0, 3, 3, 0, 0],
        "attend_to": [1, 2, 3, 5, 5, 0, 0],
    }
    assert {name: array.tolist() for name, array in arrays.items()} == expected
    assert {array.dtype for name, array in arrays.items() if name != "loss_weights"} == {np.dtype(np.int32)}


def test_one_segment_where_documents_see_each_other():
    segments = segments_of((3, 2), (0, 2))
    arrays = lay_out(segments, Layout(7, SPECIAL, isolate_documents=False)).arrays()
    assert arrays["segment_ids"].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert arrays["positions"].tolist() == [0, 1, 2, 3, 4, 0, 0]
    assert arrays["attend_from"].tolist() == [0] * 7
    assert arrays["attend_to"].tolist() == [1, 2, 3, 5, 5, 0, 0]
    assert arrays["inputs"].tolist() == lay_out(segments, Layout(7, SPECIAL)).inputs_L.tolist()


@pytest.mark.parametrize(
    "lengths, prefixes", [((5, 1, 9), (0, 1, 4)), ((16,), (16,)), ((1, 1, 1), (0, 0, 0)), ((), ())]
)
def test_intervals_equal_the_dense_prefix_mask(lengths, prefixes):
    example = lay_out(segments_of(lengths, prefixes), Layout(16, SPECIAL))
    allowed_LxL, start = np.zeros((16, 16), bool), 0
    for length, prefix in zip(lengths, prefixes, strict=True):
        for i in range(length):
            for k in range(length):
                allowed_LxL[start + i, start + k] = k <= i or (i < prefix and k < prefix)
        start += length
    keys_L = np.arange(16)
    intervals_LxL = (example.attend_from_L[:, None] <= keys_L) & (keys_L < example.attend_to_L[:, None])
    np.testing.assert_array_equal(intervals_LxL, allowed_LxL)


def test_what_leads_a_document_in_has_its_modality():
    """The first token of a row that goes on with a document is in no target before it."""
    tables = split_vocabulary("full", {f"t{i}": i for i in range(40)}, range(5), 40)
    segments = [
        Segment(20, np.array([21, 0], np.int32), modality_N=CODE_MODALITY),
        Segment(30, np.array([31, 0], np.int32), modality_N=TEXT_MODALITY),
    ]
    example = split_ids(lay_out(segments, Layout(5, SPECIAL, modality=tables)), tables)
    code_20, code_21 = (40 + tables.sources.index(token) for token in (20, 21))
    assert example.inputs_L.tolist() == [code_20, code_21, 30, 31, 0]
    assert example.targets_L.tolist() == [code_21, 0, 31, 0, 0]


def test_too_many_targets_are_refused():
    with pytest.raises(ValueError, match="8 targets do not fit a row of 7"):
        lay_out(segments_of((5, 3), (0, 0)), Layout(7, SPECIAL))


def test_causal_row_teaches_every_token_once_behind_its_lead():
    pieces = (
        Piece(55, np.array([7, 8, 0], np.int32), is_start=False, is_end=True),
        Piece(0, np.array([0], np.int32), is_start=True, is_end=True),  # an empty document
        Piece(0, np.array([9, 9, 9, 9], np.int32), is_start=True, is_end=False),
    )
    example = CausalLM()(Row(pieces), Layout(10, SPECIAL), np.random.default_rng(0))
    assert example.targets_L.tolist() == [7, 8, 0, 0, 9, 9, 9, 9, 0, 0]
    assert example.inputs_L.tolist() == [55, 7, 8, 0, 0, 9, 9, 9, 0, 0]
    assert example.loss_weights_L.tolist() == [1] * 8 + [0] * 2
