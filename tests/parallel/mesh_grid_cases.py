"""What every mesh must compute like one device: batches of each objective, by the loss that they are trained with."""

import dataclasses
from collections.abc import Callable

import numpy as np

from t5x_code.models.config import TransformerConfig
from t5x_code.models.modality import VocabularySplit, split_config
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.equivalence_text import EquivalenceText
from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.objectives.infill import Infill
from t5x_code.objectives.ntp_plus import CODE_KINDS, NtpPlus
from t5x_code.objectives.prefix_lm import PrefixLM
from t5x_code.objectives.segments import split_ids
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.text_to_code import PAIR_KINDS, TextToCode
from t5x_code.objectives.ul2 import UL2
from t5x_code.tokens.modality import CODE_MODALITY, TEXT_MODALITY, ModalityTables
from t5x_code.tokens.special_tokens import PairTokens, SpecialTokens
from t5x_code.training.losses import LossConfig

B, L, V = 16, 64, 2048  # no activation has an axis as long as a share of V
SPECIAL = SpecialTokens(eod=0, sep=1, eom=2, masks=tuple(range(3, 19)), pair=PairTokens(*range(19, 26)))
FIRST_ORDINARY = 26
MODEL = TransformerConfig(
    num_layers=2, model_dim=32, num_heads=8, num_kv_heads=8, head_dim=8, mlp_dim=64, vocab_size=V, max_length=L,
    rotary_dim=4, dtype="float32", loss_chunk=32,
)  # fmt: skip
TABLES = ModalityTables("partial", V, tuple(range(100, 612)))
Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """Batches that go through one compiled function."""

    model: TransformerConfig
    loss: LossConfig
    split: VocabularySplit | None
    batches: dict[str, Batch]  # by the objective's name


def make_cases() -> list[Case]:
    """Every objective: next-token losses, a vocabulary split by modality, and the contrastive term."""
    plain = Layout(L, SPECIAL, vocab_size=V)
    streams = [CausalLM(), SpanCorruption(), PrefixLM(), Infill(), UL2()]
    next_token = {objective.name: stream_rows(objective, plain) for objective in streams}
    next_token |= {"equivalence_text": packed_rows(EquivalenceText(), plain, code_document)}
    ntp_plus = {"ntp_plus": packed_rows(NtpPlus(max_queries=3), plain, code_document)}
    return [
        Case(MODEL, LossConfig(), None, next_token),
        Case(MODEL, LossConfig(contrastive=0.5), None, ntp_plus),
        split_case((TEXT_MODALITY, CODE_MODALITY), ("text_code_clm",)),
        split_case((CODE_MODALITY,), ("code_clm", "corrupt_code_clm", "prefix_code_clm")),
    ]


def split_case(modalities: tuple[int, ...], forms: tuple[str, ...]) -> Case:
    """Docstring-code pairs, whose code has rows of its own in the vocabulary."""
    layout = Layout(L, SPECIAL, vocab_size=V, modality=TABLES)
    split = VocabularySplit(V, TABLES.sources, TABLES.allowed, modalities)
    batches = {form: packed_rows(TextToCode(form), layout, pair_document) for form in forms}
    return Case(split_config(MODEL, split), LossConfig(), split, batches)


def stream_rows(objective, layout: Layout) -> Batch:
    """Rows of documents of random lengths; every third is padding in part."""
    raw = objective.raw_length(layout, np.full(1000, 17))
    rows = []
    for index in range(B):
        rng = np.random.default_rng(index)
        pieces, room = [], raw - 8 * (index % 3)
        while room > 4:
            tokens = np.append(words(rng, min(room, int(rng.integers(4, 30))) - 1), SPECIAL.eod).astype(np.int32)
            pieces.append(Piece(SPECIAL.eod, tokens, is_start=True, is_end=True))
            room -= len(tokens)
        rows.append(objective(Row(tuple(pieces)), layout, rng))
    return stacked(rows)


def packed_rows(objective, layout: Layout, document: Callable[[np.random.Generator], Piece]) -> Batch:
    """Rows of one to three whole documents."""
    rows = []
    for index in range(B):
        rng = np.random.default_rng(index)
        row = objective(Row(tuple(document(rng) for _ in range(1 + index % 3))), layout, rng)
        rows.append(split_ids(row, layout.modality) if layout.modality else row)
    return stacked(rows)


def code_document(rng: np.random.Generator) -> Piece:
    """A short code with each of its variants and verdicts; few problems, so that rows share some."""
    return in_parts(rng, len(CODE_KINDS), (2, 6), group=int(rng.integers(0, 9)))


def pair_document(rng: np.random.Generator) -> Piece:
    """A docstring, a signature and a body."""
    return in_parts(rng, len(PAIR_KINDS), (3, 7))


def in_parts(rng: np.random.Generator, num_kinds: int, sizes: tuple[int, int], group: int = 0) -> Piece:
    ends = np.cumsum(rng.integers(*sizes, num_kinds))
    tokens = np.append(words(rng, ends[-1]), SPECIAL.eod).astype(np.int32)
    return Piece(SPECIAL.eod, tokens, True, True, CODE_MODALITY, ends, np.arange(num_kinds, dtype=np.uint8), group)


def words(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(FIRST_ORDINARY, V, count)


def stacked(rows: list) -> Batch:
    arrays = [row.arrays() for row in rows]
    return {name: np.stack([row[name] for row in arrays]) for name in arrays[0]}
