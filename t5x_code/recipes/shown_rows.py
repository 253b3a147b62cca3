"""From a recipe's data to what the example viewer shows: the rows of some training steps, with their documents."""

from collections.abc import Iterator

import numpy as np

from t5x_code.data.loader import build_rows
from t5x_code.data.streams import StreamRows
from t5x_code.objectives.example import Piece
from t5x_code.recipes.inputs import Inputs
from t5x_code.recipes.recipe import Recipe
from t5x_code.reports.example_viewer import ShownRow, ShownTokens
from t5x_code.source_code.linearisation import restore_lines
from t5x_code.tokens.special_tokens import MARKS
from t5x_code.training.batch_size import batch_size_at


def shown_rows(inputs: Inputs, recipe: Recipe, steps: range) -> Iterator[ShownRow]:
    """The rows of the steps, as training takes them."""
    rows = build_rows(inputs.train, inputs.layout, recipe.data.seed)
    first = sum(batch_size_at(recipe.loop.batch_size, step) for step in range(steps.start))
    for step in steps:
        for number in range(batch_size_at(recipe.loop.batch_size, step)):
            stream, index = rows.mixing.select(first + number)
            yield _shown_row(inputs, rows.streams[stream], index, step, number, rows[first + number])
        first += batch_size_at(recipe.loop.batch_size, step)


def shown_tokens(inputs: Inputs) -> ShownTokens:
    """Texts and roles of the tokens, in final ids where the vocabulary is split by modality."""
    special, tables = inputs.layout.special_tokens, inputs.layout.modality

    def text(token: int) -> str:
        base = int(tables.base_ids[token]) if tables else token
        pair = special.pair
        if pair and base in (pair.new_line, pair.indent, pair.dedent):
            return {pair.new_line: "\n", pair.indent: "⇥", pair.dedent: "⇤"}[base]
        return inputs.tokenizer.decode([base], keep_special_tokens=True)

    turns = [special.sep]
    turns += [special.fim.middle] if special.fim else []
    turns += [special.pair.python] if special.pair else []
    lines = (special.pair.new_line, special.pair.indent, special.pair.dedent) if special.pair else ()
    return ShownTokens(text, frozenset(special.all_ids) - frozenset(lines), frozenset(turns))


def _shown_row(
    inputs: Inputs, stream: StreamRows, index: int, step: int, number: int, arrays: dict[str, np.ndarray]
) -> ShownRow:
    epoch, row = stream.place(index)
    documents = tuple(_document(inputs, piece) for piece in stream.plan.row(epoch, row).pieces)
    return ShownRow(step, number, stream.stream.name, f"epoch {epoch}, row {row:,}", arrays, documents)


def _document(inputs: Inputs, piece: Piece) -> str:
    """A piece's text; where it is cut, dots say so."""
    decode = inputs.tokenizer.decode_marked
    if piece.part_ends is not None:
        parts = np.split(piece.tokens_N, piece.part_ends)
        texts = [decode(parts[0]), decode(np.concatenate(parts[1:]))]
        return "\n".join(restore_lines(text, *MARKS) for text in texts)
    return ("" if piece.is_start else "… ") + decode(piece.tokens_N) + ("" if piece.is_end else " …")
