"""Docstring-code pairs: the four forms by hand, then on the standard library's functions."""

import dataclasses

import numpy as np
import pytest
from stream_of_rows import looks_ahead

from t5x_code.errors import UserError
from t5x_code.objectives.example import DocumentTable, Layout, Piece, Row
from t5x_code.objectives.segments import split_ids
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.source_code.linearisation import restore_lines
from t5x_code.tokens.modality import split_vocabulary
from t5x_code.tokens.special_tokens import MARKS, PairTokens, SpecialTokens

BEGIN, COMMENTS, PYTHON, CORRUPTED, NEW_LINE, INDENT, DEDENT = range(5, 12)
SPECIAL = SpecialTokens(0, 1, 2, (3, 4), PairTokens(BEGIN, COMMENTS, PYTHON, CORRUPTED, NEW_LINE, INDENT, DEDENT))
FORMS = ("text_code_clm", "code_clm", "corrupt_code_clm", "prefix_code_clm")
LAYOUTS = ("pangu", "pycodegpt")


def pair(docstring, signature, body) -> Piece:
    ends = np.cumsum([len(docstring), len(signature), len(body)])
    tokens_N = np.array([*docstring, *signature, *body, 0], np.int32)
    return Piece(0, tokens_N, True, True, 1, ends, np.arange(3, dtype=np.uint8))


PAIR = pair([20, 21], [30], [40, NEW_LINE])


@pytest.mark.parametrize(
    "layout_name, inputs, targets, first_of_code, modality",
    [
        (
            "pangu",
            [COMMENTS, 20, 21, PYTHON, 30, 40, NEW_LINE],
            [20, 21, PYTHON, 30, 40, NEW_LINE, 0],
            3,
            [0] * 3 + [1] * 4,
        ),
        (
            "pycodegpt",
            [BEGIN, 30, COMMENTS, 20, 21, PYTHON, 40, NEW_LINE],
            [30, COMMENTS, 20, 21, PYTHON, 40, NEW_LINE, 0],
            5,
            [1, 1, 0, 0, 0, 1, 1, 1],
        ),
    ],
)
def test_layouts_by_hand(layout_name, inputs, targets, first_of_code, modality):
    vocabulary = {f"t{i}": i for i in range(60)}
    tables = split_vocabulary("full", vocabulary, range(12), 60)
    layout = Layout(len(inputs) + 2, SPECIAL, True, 60, modality=tables)
    for form in FORMS:
        example = TextToCode(form, layout_name, corruption=0.0)(Row((PAIR,)), layout, np.random.default_rng(0))
        assert example.inputs_L.tolist() == [*inputs, 0, 0]
        assert example.targets_L.tolist() == [*targets, 0, 0]
        weights = (
            [1] * len(targets)
            if form == "text_code_clm"
            else [0] * first_of_code + [1] * (len(targets) - first_of_code)
        )
        assert example.loss_weights_L.tolist() == [*weights, 0, 0]
        assert example.target_modality_L.tolist() == [*modality, 0, 0]
        n = inputs.index(PYTHON) + 1
        sees = [n] * n if form == "prefix_code_clm" else list(range(1, n + 1))
        assert example.attend_to_L.tolist() == [*sees, *range(n + 1, len(inputs) + 1), 0, 0]
        final = split_ids(example, tables)
        # Ordinary tokens of code have second ids, control tokens and the docstring have not.
        shift = {i: i if i < 12 or i in (20, 21) else tables.sources.index(i) + 60 for i in range(60)}
        assert final.inputs_L.tolist() == [*map(shift.get, inputs), 0, 0]
        assert final.targets_L.tolist() == [*map(shift.get, targets), 0, 0]


@pytest.mark.parametrize("layout_name", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_real_pairs_come_back(form, layout_name, pair_rows, layout, tokenizer):
    objective, special = TextToCode(form, layout_name), layout.special_tokens
    for number, row in enumerate(pair_rows):
        example = objective(row, layout, np.random.default_rng(number))
        assert looks_ahead(example) != objective.is_causal
        for segment, piece in enumerate(row.pieces, 1):
            inside_L = example.segment_ids_L == segment
            targets_N = example.targets_L[inside_L]
            python = int(np.flatnonzero(targets_N == special.pair.python)[0])
            comments = 0 if layout_name == "pangu" else 1 + int(np.flatnonzero(targets_N == special.pair.comments)[0])
            parts = np.split(piece.tokens_N, piece.part_ends)[:3]
            np.testing.assert_array_equal(targets_N[comments:python], parts[0])
            signature_N = targets_N[: comments - 1] if comments else targets_N[python + 1 :][: len(parts[1])]
            np.testing.assert_array_equal(signature_N, parts[1])
            np.testing.assert_array_equal(targets_N[len(targets_N) - len(parts[2]) - 1 :], [*parts[2], special.eod])
            code = restore_lines(tokenizer.decode_marked([*parts[1], *parts[2]]), *MARKS)
            compile(code, "pair", "exec", flags=0x400)  # syntax alone
            weights_N = example.loss_weights_L[inside_L]
            assert weights_N.all() == (form == "text_code_clm") and weights_N[python + 1 :].all()
            assert form == "text_code_clm" or not weights_N[: python + 1].any()


def test_corruption_is_of_the_docstring_in_its_shares(pair_rows, layout):
    special, counts = layout.special_tokens, np.zeros(4)
    for number, row in enumerate(pair_rows):
        plain = TextToCode("code_clm")(row, layout, np.random.default_rng(number))
        corrupt = TextToCode("corrupt_code_clm")(row, layout, np.random.default_rng(number))
        for name, array in plain.arrays().items():
            if name != "inputs":
                np.testing.assert_array_equal(corrupt.arrays()[name], array)
        changed_L = plain.inputs_L != corrupt.inputs_L
        before_python_L = plain.loss_weights_L == 0
        ordinary_L = before_python_L & ~np.isin(plain.inputs_L, special.all_ids)
        assert not (changed_L & ~ordinary_L).any()
        assert not np.isin(corrupt.inputs_L[changed_L], sorted(set(special.all_ids) - {special.pair.corrupted})).any()
        counts += (
            ordinary_L.sum(),
            changed_L.sum(),
            (corrupt.inputs_L[changed_L] == special.pair.corrupted).sum(),
            1,
        )
    assert abs(counts[1] / counts[0] - 0.15) < 0.01
    assert abs(counts[2] / counts[1] - 0.8) < 0.02
    all_masked = TextToCode("corrupt_code_clm", corruption=1.0, corrupted_to_mask=1.0)
    example = all_masked(pair_rows[0], layout, np.random.default_rng(0))
    assert np.isin(example.inputs_L[(example.loss_weights_L == 0) & (example.segment_ids_L > 0)], special.all_ids).all()
    none_masked = TextToCode("corrupt_code_clm", corruption=1.0, corrupted_to_mask=0.0)
    example = none_masked(pair_rows[0], layout, np.random.default_rng(0))
    drawn = example.inputs_L[(example.loss_weights_L == 0) & ~np.isin(example.inputs_L, special.all_ids)]
    assert len(set(drawn.tolist())) > 0.8 * len(drawn)


def test_packed_lengths_are_those_of_the_segments(pair_rows, layout):
    for name in LAYOUTS:
        objective = TextToCode("code_clm", name)
        for row in pair_rows[:20]:
            lengths_D = np.array([len(piece.tokens_N) for piece in row.pieces])
            table = DocumentTable(
                lengths_D, np.arange(4) * 3, np.zeros(9), np.zeros(9), ("docstring", "signature", "body")
            )
            example = objective(row, layout, np.random.default_rng(0))
            used = np.bincount(example.segment_ids_L)[1:]
            np.testing.assert_array_equal(objective.packed_lengths(layout, table), used)


def test_pairs_never_see_each_other(pair_rows, layout):
    for form in FORMS:
        rows = [
            TextToCode(form)(
                pair_rows[0], dataclasses.replace(layout, isolate_documents=isolate), np.random.default_rng(0)
            )
            for isolate in (True, False)
        ]
        for name, isolated in rows[0].arrays().items():
            np.testing.assert_array_equal(isolated, rows[1].arrays()[name], err_msg=name)


def test_empty_parts_are_pairs_too():
    for form in FORMS:
        for name in LAYOUTS:
            example = TextToCode(form, name)(
                Row((pair([], [], []),)), Layout(8, SPECIAL, True, 60), np.random.default_rng(0)
            )
            assert example.targets_L[example.loss_weights_L > 0][-1] == 0
            assert np.count_nonzero(example.segment_ids_L) == (2 if name == "pangu" else 3)


def test_bad_settings_and_tasks_are_refused(layout):
    plain = DocumentTable(np.array([3]), np.array([0, 1]), np.array([2]), np.zeros(1, np.uint8), ())
    with pytest.raises(UserError, match="needs a task of docstring-code pairs"):
        TextToCode().packed_lengths(layout, plain)
    pairs = dataclasses.replace(plain, kind_names=("docstring", "signature", "body"))
    with pytest.raises(UserError, match="tokenizer lacks"):
        TextToCode().packed_lengths(Layout(8, SpecialTokens(0, 1, 2, ())), pairs)
    for settings in ({"form": "clm"}, {"layout": "gpt"}, {"corruption": 1.5}):
        with pytest.raises(UserError, match=next(iter(settings))):
            TextToCode(**settings)
