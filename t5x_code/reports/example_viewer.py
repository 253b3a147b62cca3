"""One self-contained HTML page that shows examples token by token: roles, losses, segments, and who sees whom.

Works on plain arrays as a batch holds them. Shape legend: L sequence length, P segments of a row.
"""

import dataclasses
import importlib.resources
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

PAGE = "example_page.html"
PADDING, SOURCE, PREFIX, TARGET, SENTINEL = range(5)  # roles, as the page numbers them


@dataclasses.dataclass(frozen=True)
class ShownRow:
    """A row of a batch and where it comes from."""

    step: int
    number: int  # in its batch
    stream: str  # task/objective
    origin: str  # such as `epoch 0, row 17`
    arrays: dict[str, np.ndarray]  # as `Example.arrays`
    documents: tuple[str, ...]  # text of each document of the row


@dataclasses.dataclass(frozen=True)
class ShownTokens:
    """What the page has to know of the vocabulary."""

    text: Callable[[int], str]  # of a token, control tokens spelt out
    sentinels: Collection[int]
    turns: Collection[int]  # sentinels after which the targets of an infill, or the code of a pair, begin


def roles_of(arrays: dict[str, np.ndarray], tokens: ShownTokens) -> np.ndarray:
    """The role of each target, int [L].

    A sentinel is one of the control tokens; the prefix is what is read both ways; targets are what follows `<sep>`,
    `<fim_middle>` or `<python>` in a segment; all else is source.
    """
    targets_L, segments_L = arrays["targets"], arrays["segment_ids"]
    places_L = np.arange(len(targets_L))
    roles_L = np.full(len(targets_L), SOURCE)
    is_turn_L = np.isin(targets_L, list(tokens.turns)) & (segments_L > 0)
    last_turn_L = np.maximum.accumulate(np.where(is_turn_L, places_L, -1))
    roles_L[last_turn_L >= arrays["attend_from"]] = TARGET
    # The target at place i is the input at i + 1: in the prefix where the prefix reaches over it.
    sees_on_L = arrays["attend_to"] > places_L + 1
    roles_L[sees_on_L] = PREFIX
    roles_L[np.isin(targets_L, list(tokens.sentinels))] = SENTINEL
    roles_L[segments_L == 0] = PADDING
    return roles_L


def render(rows: Sequence[ShownRow], tokens: ShownTokens, subtitle: str) -> str:
    """The page.

    Args:
        rows: by step, then by number.
        tokens: texts and roles of the vocabulary.
        subtitle: the recipe, for the head of the page.
    """
    used = sorted({int(i) for row in rows for name in ("inputs", "targets") for i in np.unique(row.arrays[name])})
    index = {token: number for number, token in enumerate(used)}
    data = {
        "subtitle": subtitle,
        "numbers": _numbers(rows),
        "table": _table(rows),
        "ids": used,
        "texts": [tokens.text(token) for token in used],
        "rows": [_row(row, tokens, index) for row in rows],
    }
    page = importlib.resources.files(__package__).joinpath(PAGE).read_text(encoding="utf-8")
    # `</script>` in a document may not end the data.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return page.replace("/*DATA*/", text)


def _row(row: ShownRow, tokens: ShownTokens, index: dict[int, int]) -> dict[str, Any]:
    arrays = row.arrays
    segments_L = arrays["segment_ids"]
    used = int(np.count_nonzero(segments_L))
    starts_P = np.flatnonzero(np.diff(segments_L[:used], prepend=0))
    ends_P = [*starts_P[1:].tolist(), used]
    documents = list(row.documents)
    if len(documents) != len(starts_P):  # documents that share a segment stand beside it together
        documents = ["\n\n".join(documents)] * bool(len(starts_P)) + [None] * (len(starts_P) - 1)
    shown = {
        "step": row.step,
        "number": row.number,
        "stream": row.stream,
        "origin": row.origin,
        "fill": used / len(segments_L),
        "trained": float(np.count_nonzero(arrays["loss_weights"]) / max(1, used)),
        "padding": len(segments_L) - used,
        "segments": [[*span, text] for *span, text in zip(starts_P.tolist(), ends_P, documents, strict=True)],
        "leadRoles": [SENTINEL if int(arrays["inputs"][i]) in tokens.sentinels else SOURCE for i in starts_P],
        "roles": roles_of(arrays, tokens)[:used].tolist(),
        "weights": [round(weight, 3) for weight in arrays["loss_weights"][:used].tolist()],
        "positions": arrays["positions"][:used].tolist(),
        "from": arrays["attend_from"][:used].tolist(),
        "to": arrays["attend_to"][:used].tolist(),
    }
    for name in ("inputs", "targets"):
        shown[name] = [index[token] for token in arrays[name][:used].tolist()]
    if "target_modality" in arrays:
        shown["modality"] = arrays["target_modality"][:used].tolist()
    return shown


def _numbers(rows: Sequence[ShownRow]) -> list[tuple[str, str]]:
    used = sum(int(np.count_nonzero(row.arrays["segment_ids"])) for row in rows)
    places = sum(row.arrays["segment_ids"].size for row in rows)
    trained = sum(int(np.count_nonzero(row.arrays["loss_weights"])) for row in rows)
    return [
        (f"{len(rows)}", "rows"),
        (f"{len(rows[0].arrays['inputs']):,}", "places a row"),
        (f"{100 * used / places:.1f} %", "of the places filled"),
        (f"{100 * trained / max(1, used):.1f} %", "of the tokens with loss"),
        (f"{sum(int(row.arrays['segment_ids'].max()) for row in rows):,}", "segments"),
    ]


def _table(rows: Sequence[ShownRow]) -> list[list[str]]:
    """Statistics of the batches by stream, a head first."""
    lines = [["stream", "rows", "tokens", "filled", "with loss", "segments a row", "longest segment", "read both ways"]]
    for stream in sorted({row.stream for row in rows}):
        arrays = [row.arrays for row in rows if row.stream == stream]
        segments = np.concatenate([np.bincount(a["segment_ids"][a["segment_ids"] > 0])[1:] for a in arrays])
        used, places = int(segments.sum()), sum(a["segment_ids"].size for a in arrays)
        trained = sum(int(np.count_nonzero(a["loss_weights"])) for a in arrays)
        both_ways = sum(int((a["attend_to"] > np.arange(len(a["inputs"])) + 1).sum()) for a in arrays)
        lines.append(
            [
                stream,
                f"{len(arrays)}",
                f"{used:,}",
                f"{100 * used / places:.1f} %",
                f"{100 * trained / max(1, used):.1f} %",
                f"{len(segments) / len(arrays):.1f}",
                f"{int(segments.max(initial=0)):,}",
                f"{100 * both_ways / max(1, used):.1f} %",
            ]
        )
    return lines
