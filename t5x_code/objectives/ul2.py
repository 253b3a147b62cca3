"""UL2's mixture of denoisers (arXiv 2205.05131) in a decoder: what CodeGen2's first lesson compares with.

Each document draws a denoiser: R, short spans and little hidden; X, long spans or much hidden; S, a prefix language
model. Spans are hidden as spans.py shows, with T5's lengths. The document is led by its denoiser's mode token, which is
read and never predicted. No tokenizer of ours has mode tokens: the vocabulary's last three masks serve [ours]. The loss
is on all that follows it, as in CodeGen2's span corruption, and not on what is hidden alone [ours].

Shape legend: N tokens of a piece, P pieces of a row, C pieces of one denoiser, K spans of a piece.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from t5x_code.errors import UserError
from t5x_code.objectives.example import Example, Layout, Row
from t5x_code.objectives.prefix_lm import PrefixLM, prefix_segment
from t5x_code.objectives.segments import Segment, lay_out
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.spans import (
    check_masks,
    drop_spans,
    expansion,
    growth_of,
    hide_drawn_spans,
    simulate_raw_length,
    text_lengths,
)

MODES = ("R", "S", "X")


@dataclasses.dataclass(frozen=True)
class UL2:
    """R, S and X denoisers by document; all settings of a mode are equally likely."""

    name: ClassVar[str] = "ul2"  # for metrics and streams

    r_denoisers: tuple[tuple[float, float], ...] = ((3.0, 0.15), (8.0, 0.15))  # (mean span, ratio)
    x_denoisers: tuple[tuple[float, float], ...] = ((3.0, 0.5), (8.0, 0.5), (64.0, 0.15), (64.0, 0.5))
    rates: tuple[float, float, float] = (2.0, 1.0, 4.0)  # of R, S, X: by their numbers of settings, as in the paper
    mode_tokens: bool = True

    def __post_init__(self):
        if min(self.rates) < 0 or not sum(self.rates) or not (self.r_denoisers and self.x_denoisers):
            raise UserError(f"UL2.rates is {self.rates}: three shares of 0 or more, and denoisers for R and X")
        for mean_span, ratio in (*self.r_denoisers, *self.x_denoisers):
            _corruption(mean_span, ratio)

    def raw_length(self, layout: Layout, document_lengths_N: np.ndarray) -> int:
        """The most tokens of the store that leave 99 of 100 rows room for all that is hidden and led.

        Raises:
          UserError: the vocabulary has too few masks, or L is too short.
        """
        check_masks("UL2", layout.special_tokens)
        max_spans = self._max_spans(layout)
        if max_spans < 1:
            count = len(layout.special_tokens.masks)
            raise UserError(f"UL2 has {count} masks, of which {len(MODES)} serve as mode tokens; give it more")

        def growth(text_lengths_P: np.ndarray, is_cut_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            num_spans_P = np.zeros(len(text_lengths_P), np.int64)
            for _, corruption, chosen_P in self._choose(len(text_lengths_P), rng):
                if corruption is not None:
                    num_spans_P[chosen_P] = corruption.draw_numbers(text_lengths_P[chosen_P], max_spans, rng)
            return growth_of(num_spans_P, is_cut_P) + self.mode_tokens

        return simulate_raw_length("UL2", growth, layout, document_lengths_N)

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Denoises each piece of the row and lays them out."""
        return lay_out(self.denoise(row, layout, rng), layout)

    def denoise(self, row: Row, layout: Layout, rng: np.random.Generator) -> list[Segment]:
        """One segment per piece. Without room spans are dropped, and the last documents' mode tokens."""
        text_lengths_P, is_cut_P = text_lengths(row.pieces)
        modes_P, lengths_PxK = self._draw(text_lengths_P, self._max_spans(layout), rng)
        room = layout.length - row.num_tokens
        num_modes = min(self.mode_tokens * len(row.pieces), room)
        if expansion(lengths_PxK, is_cut_P) > room - num_modes:
            lengths_PxK = drop_spans(lengths_PxK, is_cut_P, room - num_modes, rng)
        segments = []
        for number, (piece, mode, lengths_K) in enumerate(zip(row.pieces, modes_P, lengths_PxK, strict=True)):
            if MODES[mode] == "S":
                segment = prefix_segment(piece, PrefixLM("long").draw_length(len(piece.tokens_N), rng))
            else:
                segment = hide_drawn_spans(piece, lengths_K[lengths_K > 0], layout.special_tokens, rng)
            is_led = number < num_modes
            segments.append(_led_by(segment, layout.special_tokens.masks[mode - len(MODES)]) if is_led else segment)
        return segments

    def _draw(
        self, text_lengths_P: np.ndarray, max_spans: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mode of each piece, a number of `MODES`, and its span lengths [P, K]."""
        modes_P, drawn = np.zeros(len(text_lengths_P), np.int64), []
        for mode, corruption, chosen_P in self._choose(len(text_lengths_P), rng):
            modes_P[chosen_P] = MODES.index(mode)
            if corruption is not None:
                drawn.append((chosen_P, corruption.draw_lengths(text_lengths_P[chosen_P], max_spans, rng)))
        most = max((lengths_CxK.shape[1] for _, lengths_CxK in drawn), default=0)
        lengths_PxK = np.zeros((len(text_lengths_P), most), np.int64)
        for chosen_P, lengths_CxK in drawn:
            lengths_PxK[chosen_P, : lengths_CxK.shape[1]] = lengths_CxK
        return modes_P, lengths_PxK

    def _choose(
        self, num_pieces: int, rng: np.random.Generator
    ) -> Iterator[tuple[str, SpanCorruption | None, np.ndarray]]:
        """Draws a denoiser for each piece. Of each: its mode, what hides spans, and whose it is, bool [P]."""
        denoisers = [
            *(("R", _corruption(*denoiser)) for denoiser in self.r_denoisers),
            ("S", None),
            *(("X", _corruption(*denoiser)) for denoiser in self.x_denoisers),
        ]
        of_mode = dict(zip(MODES, self.rates, strict=True))
        modes = [mode for mode, _ in denoisers]
        shares = np.array([of_mode[mode] / modes.count(mode) for mode in modes])
        choice_P = rng.choice(len(denoisers), num_pieces, p=shares / shares.sum())
        for number, (mode, corruption) in enumerate(denoisers):
            yield mode, corruption, choice_P == number

    def _max_spans(self, layout: Layout) -> int:
        return len(layout.special_tokens.masks) - len(MODES) * self.mode_tokens


def _corruption(mean_span: float, ratio: float) -> SpanCorruption:
    return SpanCorruption(ratio, ratio, span_lengths="t5", mean_span=mean_span)


def _led_by(segment: Segment, mode_token: int) -> Segment:
    """The segment with a mode token read before its first target, and not learned."""
    weights_N = np.ones(len(segment.targets_N), np.float32) if segment.weights_N is None else segment.weights_N
    return dataclasses.replace(
        segment,
        targets_N=np.concatenate([np.array([mode_token], np.int32), segment.targets_N]),
        weights_N=np.concatenate([np.zeros(1, np.float32), weights_N]),
        prefix_length=segment.prefix_length + 1,  # of one input, it changes nothing
    )
