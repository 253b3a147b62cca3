"""Values that t5 and seqio publish in their tests, reached by configuring our objectives like theirs."""

import numpy as np
import pytest

from t5x_code.objectives.example import Layout, Piece
from t5x_code.objectives.prefix_lm import prefix_segment
from t5x_code.objectives.segments import lay_out
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.spans import hide_drawn_spans
from t5x_code.tokens.special_tokens import SpecialTokens

SPECIAL = SpecialTokens(eod=1, sep=2, eom=3, masks=tuple(range(500, 600)))


# t5 data/preprocessors_test.py: random_spans_helper(inputs_length=64, noise_density=0.2, ..) gives (tokens, targets).
@pytest.mark.parametrize("mean_span, num_tokens, targets_length", [(2.0, 70, 22), (1.0, 63, 27)])
def test_t5_span_counts(mean_span, num_tokens, targets_length):
    objective = SpanCorruption(0.2, 0.2, span_lengths="t5", mean_span=mean_span)
    piece = Piece(1, np.append(np.arange(100, 100 + num_tokens), 1).astype(np.int32), True, True)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        (lengths_K,) = objective.draw_lengths(np.array([num_tokens]), len(SPECIAL.masks), rng)
        hidden, spans = int(lengths_K.sum()), np.count_nonzero(lengths_K)
        targets_N = hide_drawn_spans(piece, lengths_K[lengths_K > 0], SPECIAL, rng).targets_N
        body = int(np.flatnonzero(targets_N == SPECIAL.sep)[0])
        assert body == 64  # what stays, one sentinel a span, the end
        assert hidden + spans + 1 == targets_length  # T5's targets: no `<eom>`, `</s>` in place of `<sep>`
        assert len(targets_N) - body == targets_length + spans


# t5 data/preprocessors_test.py: random_spans_noise_mask's density is the asked one.
def test_t5_density():
    lengths_PxK = SpanCorruption(0.15, 0.15, span_lengths="t5").draw_lengths(
        np.full(500, 512), 1000, np.random.default_rng(0)
    )
    assert abs(lengths_PxK.sum() / (500 * 512) - 0.15) < 0.01
    assert abs(lengths_PxK.sum() / np.count_nonzero(lengths_PxK) - 3.0) < 0.1


def packed_prefixes(documents, length):
    """The example of documents whose first tokens are a prefix, as (prefix tokens, other tokens)."""
    segments = [
        prefix_segment(Piece(0, np.array([*prefix, *rest], np.int32), True, True), len(prefix) + 1)
        for prefix, rest in documents
    ]
    return lay_out(segments, Layout(length, SPECIAL))


def is_bidirectional(example) -> list[int]:
    return (example.attend_to_L > np.arange(len(example.inputs_L)) + 1).astype(int).tolist()


# t5: pack_prefix_lm_decoder_only; seqio feature_converters_test.py: PrefixLMFeatureConverter and its packed form.
@pytest.mark.parametrize(
    "documents, targets, loss, causal_attention",
    [
        ([([9, 4, 6], [3, 9, 2, 1])], [9, 4, 6, 3, 9, 2, 1], [0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]),
        (
            [([9, 4, 6], [3, 9, 2, 1]), ([3, 2], [4, 1])],
            [9, 4, 6, 3, 9, 2, 1, 3, 2, 4, 1],
            [0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1],
            [1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0],
        ),
    ],
)
def test_seqio_prefix_lm(documents, targets, loss, causal_attention):
    example = packed_prefixes(documents, 14)
    padding = [0] * (14 - len(targets))
    assert example.targets_L.tolist() == targets + padding
    assert example.loss_weights_L.tolist() == loss + padding
    # seqio marks all tokens of the prefix; the last of them sees no more than a causal one does.
    ends = np.flatnonzero(np.diff([*causal_attention, 0]) < 0)
    marked = is_bidirectional(example)
    for end in ends.tolist():
        marked[end] = 1
    assert marked == causal_attention + padding


def test_seqio_itself_gives_the_same():
    """The same two documents through seqio's own converter, where it is installed."""
    seqio = pytest.importorskip("seqio")
    tensorflow = pytest.importorskip("tensorflow")
    documents = [([9, 4, 6], [3, 9, 2, 1]), ([3, 2], [4, 1])]
    dataset = tensorflow.data.Dataset.from_generator(
        lambda: ({"inputs": inputs, "targets": targets} for inputs, targets in documents),
        output_signature={name: tensorflow.TensorSpec([None], tensorflow.int32) for name in ("inputs", "targets")},
    )
    converter = seqio.PrefixLMFeatureConverter(pack=True)
    converted = converter(dataset, task_feature_lengths={"inputs": 7, "targets": 7})
    (theirs,) = converted.as_numpy_iterator()
    ours = packed_prefixes(documents, 14)
    np.testing.assert_array_equal(theirs["decoder_target_tokens"], ours.targets_L)
    np.testing.assert_array_equal(theirs["decoder_input_tokens"], ours.inputs_L)
    np.testing.assert_array_equal(theirs["decoder_loss_weights"], ours.loss_weights_L)
    np.testing.assert_array_equal(theirs["decoder_positions"], ours.positions_L)
    np.testing.assert_array_equal(theirs["decoder_segment_ids"], ours.segment_ids_L)
