"""Rows of codes: each code alone in its segment, pooled whole, broken ones without loss; and the textual arm."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_of_rows import looks_ahead

from t5x_code.errors import UserError
from t5x_code.objectives.equivalence_text import EquivalenceText
from t5x_code.objectives.example import DocumentTable, Layout, Piece, Row
from t5x_code.objectives.ntp_plus import CODE_KINDS, NtpPlus
from t5x_code.tokens.special_tokens import SpecialTokens

EOD = 0
LAYOUT = Layout(256, SpecialTokens(EOD, 1, 2, (3,)), isolate_documents=False)
YES, NO = [900], [901, 902]


def document(number: int, kinds: list[str], rng: np.random.Generator) -> Piece:
    """Parts of the given kinds; the tokens of part q are all 10 * (number + 1) * 10 + q, so that each can be told."""
    names = ["code", *sorted(kinds, key=CODE_KINDS.index), "equivalent", "different"]
    parts = [
        {"equivalent": YES, "different": NO}.get(name, [100 * (number + 1) + q] * int(rng.integers(1, 9)))
        for q, name in enumerate(names)
    ]
    ends = np.cumsum([len(part) for part in parts])
    tokens = np.array([token for part in parts for token in part] + [EOD], np.int32)
    part_kinds = np.array([CODE_KINDS.index(name) for name in names], np.uint8)
    return Piece(EOD, tokens, True, True, 1, ends, part_kinds, group=number // 2 + 2**40)


def table_of(pieces) -> DocumentTable:
    lengths = [np.diff(piece.part_ends, prepend=0) for piece in pieces]
    counts = [len(piece.part_ends) for piece in pieces]
    kinds = np.concatenate([piece.part_kinds for piece in pieces])
    sizes = np.array([len(piece.tokens_N) for piece in pieces])
    return DocumentTable(sizes, np.concatenate([[0], np.cumsum(counts)]), np.concatenate(lengths), kinds, CODE_KINDS)


KINDS = st.lists(st.sampled_from(["pos", "pos", "obf", "lsh", "lsh", "tsh", "kwr", "syr"]), max_size=8)


@given(st.lists(KINDS, min_size=1, max_size=4), st.integers(0, 99), st.integers(0, 2))
@settings(max_examples=200, deadline=None)
def test_rows_hold_what_their_documents_do(kinds, seed, negatives_per_query):
    rng = np.random.default_rng(seed)
    objective = NtpPlus(negatives_per_query=negatives_per_query, max_queries=4)
    pieces = [document(number, of_one, rng) for number, of_one in enumerate(kinds)]
    sizes = objective.packed_lengths(LAYOUT, table_of(pieces))
    complete = [
        bool({"pos", "obf"} & set(of_one))
        and (not negatives_per_query or bool({"lsh", "tsh", "kwr", "syr"} & set(of_one)))
        for of_one in kinds
    ]
    assert [size <= LAYOUT.length for size in sizes] == complete
    pieces = [piece for piece, is_complete in zip(pieces, complete, strict=True) if is_complete]
    example = objective(Row(tuple(pieces)), LAYOUT, rng)
    assert objective.is_causal and not looks_ahead(example)
    arrays = example.arrays()
    used = int((example.segment_ids_L > 0).sum())
    assert used <= sum(sizes[i] for i, is_complete in enumerate(complete) if is_complete)
    assert (
        len(arrays["code_role"]) == objective.slots and (arrays["code_role"] > 0).sum() == example.segment_ids_L.max()
    )
    for slot in np.flatnonzero(arrays["code_role"]):
        role, pair = arrays["code_role"][slot], arrays["code_pair"][slot]
        piece = pieces[pair]
        segment = example.segment_ids_L == slot + 1
        pooled = example.pool_ids_L == slot
        code = example.inputs_L[pooled]
        # The segment reads eod and the code, says the code and eod, and sees itself alone.
        assert example.inputs_L[segment][0] == EOD and example.targets_L[segment][-1] == EOD
        np.testing.assert_array_equal(example.inputs_L[segment][1:], code)
        np.testing.assert_array_equal(example.targets_L[segment][:-1], code)
        assert (example.attend_from_L[segment] == np.flatnonzero(segment)[0]).all()
        assert (example.loss_weights_L[segment] == (role != 3)).all()
        # The code is a whole part of the document, of a kind that its role allows.
        part = code[0] % 100
        start = piece.part_ends[part - 1] if part else 0
        np.testing.assert_array_equal(piece.tokens_N[start : piece.part_ends[part]], code)
        kind = CODE_KINDS[piece.part_kinds[part]]
        assert kind in {1: ("code",), 2: ("pos", "obf"), 3: ("lsh", "tsh", "kwr", "syr")}[role]
        assert arrays["code_problem"][slot] == piece.group % 2**31


def test_kinds_are_drawn_evenly_and_arms_leave_some_out():
    rng = np.random.default_rng(0)
    piece = document(0, ["pos", "pos", "pos", "obf", "lsh", "tsh"], rng)
    drawn = {"pos": 0, "obf": 0, "lsh": 0, "tsh": 0}
    for _ in range(1000):
        example = NtpPlus()(Row((piece,)), LAYOUT, rng)
        for slot in (1, 2):
            drawn[CODE_KINDS[piece.part_kinds[example.inputs_L[example.pool_ids_L == slot][0] % 100]]] += 1
    assert all(400 < count < 600 for count in drawn.values()), drawn
    for _ in range(50):
        example = NtpPlus(negatives=("tsh", "kwr"))(Row((piece,)), LAYOUT, rng)
        assert CODE_KINDS[piece.part_kinds[example.inputs_L[example.pool_ids_L == 2][0] % 100]] == "tsh"


def test_the_textual_arm_says_what_is_true():
    rng = np.random.default_rng(0)
    pieces = tuple(document(number, ["pos", "obf", "lsh", "kwr"], rng) for number in range(4))
    objectives, verdicts = [EquivalenceText(other_problem=share) for share in (0.5, 0.0)], {0.5: [], 0.0: []}
    most = objectives[0].packed_lengths(LAYOUT, table_of(pieces))
    for objective in objectives * 200:
        example = objective(Row(pieces), LAYOUT, rng)
        assert objective.is_causal and not looks_ahead(example)
        for number, piece in enumerate(pieces):
            segment = example.segment_ids_L == number + 1
            assert segment.sum() <= most[number]
            targets, weights = example.targets_L[segment].tolist(), example.loss_weights_L[segment]
            is_accepted = targets[-2:] == [*YES, EOD]
            assert is_accepted or targets[-3:] == [*NO, EOD]
            body = targets[: -2 if is_accepted else -3]
            query = [token for token in body if token == 100 * (number + 1)]
            candidate = body[len(query) :]
            owner, part = divmod(candidate[0], 100)
            kind = CODE_KINDS[pieces[owner - 1].part_kinds[part]]
            assert (owner == number + 1 and kind in ("pos", "obf")) == is_accepted
            if not is_accepted:
                is_other = pieces[owner - 1].group != piece.group
                assert kind in ("lsh", "kwr") or (is_other and kind == "code")
            np.testing.assert_array_equal(weights[len(query) : len(body)], float(is_accepted))
            assert weights[: len(query)].all() and weights[len(body) :].all()
            verdicts[objective.other_problem].append((is_accepted, owner != number + 1))
    assert 0.4 < np.mean([accepted for accepted, _ in verdicts[0.5]]) < 0.6
    assert np.mean([other for _, other in verdicts[0.5]]) > 0.05
    assert not any(other for _, other in verdicts[0.0])


def test_another_problem_has_the_nearest_length_that_has_room():
    """So that lengths do not tell it from an equivalent code, which is as long as the query or longer."""

    def sized(number: int, code: int, obf: int) -> Piece:
        kinds, sizes = ("code", "obf", "lsh", "equivalent", "different"), (code, obf, code, 1, 1)
        ends, part_kinds = np.cumsum(sizes), np.array([CODE_KINDS.index(kind) for kind in kinds], np.uint8)
        return Piece(EOD, np.full(ends[-1] + 1, 100 + number, np.int32), True, True, 1, ends, part_kinds, group=number)

    pieces = tuple(sized(number, *sizes) for number, sizes in enumerate([(10, 13), (5, 5), (13, 20), (14, 14)], 1))
    objective, rng, found = EquivalenceText(other_problem=1.0), np.random.default_rng(0), set()
    for _ in range(40):
        example = objective(Row(pieces), LAYOUT, rng)
        first = example.targets_L[example.segment_ids_L == 1].tolist()
        found.add(max((number for number in (2, 3, 4) if 100 + number in first), default=None))
    assert found == {None, 3}  # 14 tokens have no room


@pytest.mark.parametrize("objective", [NtpPlus(), EquivalenceText()])
def test_other_documents_are_refused(objective):
    plain = types.SimpleNamespace(kind_names=("docstring",))
    with pytest.raises(UserError, match=r"problems:FILE\.jsonl"):
        objective.packed_lengths(LAYOUT, plain)


@pytest.mark.parametrize("fields", [{"negatives": ("obf",)}, {"accepted": ()}, {"max_queries": 0}])
def test_choices_that_cannot_be_are_refused(fields):
    with pytest.raises(UserError, match="NtpPlus"):
        NtpPlus(**fields)
