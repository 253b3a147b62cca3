"""Rows as a stream cuts them, of documents in memory."""

import itertools

import numpy as np

from t5x_code.objectives.example import Example, Piece, Row


def rows_of(documents: list[np.ndarray], raw_length: int, eod: int, count: int, seed: int = 0) -> list[Row]:
    """Rows of a shuffled endless stream of documents, cut every `raw_length` tokens."""
    rng = np.random.default_rng(seed)
    stream = itertools.chain.from_iterable(
        (documents[i] for i in rng.permutation(len(documents))) for _ in itertools.count()
    )
    rows, document, at = [], next(stream), 0
    for _ in range(count):
        pieces, room = [], raw_length
        while room:
            part_N = document[at : at + room]
            lead = eod if at == 0 else int(document[at - 1])
            is_end = at + len(part_N) == len(document)
            pieces.append(Piece(lead, part_N, at == 0, is_end))
            room -= len(part_N)
            at += len(part_N)
            if is_end:
                document, at = next(stream), 0
        rows.append(Row(tuple(pieces)))
    return rows


def looks_ahead(example: Example) -> bool:
    """Whether any token sees a later one."""
    return bool((example.attend_to_L > np.arange(1, len(example.attend_to_L) + 1)).any())
