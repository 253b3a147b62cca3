"""What a model writes for held-out functions: their bodies left out, continued left to right and infilled."""

import dataclasses
from collections.abc import Iterator

from t5x_code.checkpoints.model_directory import TOKENIZER_FOLDER
from t5x_code.data.document_texts import document_texts
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import at_strings, complete, infill
from t5x_code.inference.side_by_side import Comparison
from t5x_code.recipes.open_model import open_model
from t5x_code.recipes.run_files import read_run_stores
from t5x_code.source_code.functions import extract_functions
from t5x_code.tokens.tokenizer import Tokenizer

BODY_LINES = range(3, 13)
SHOWN_LINES = 6  # of the text around a gap
CONTROL_TOKENS = 8  # room for those of an infilling prompt
BLANK_LINES = "\n\n\n"  # a young model likes them
NEXT_DEFINITION = (BLANK_LINES, "\ndef ", "\nclass ", "\n@", "\nasync def ", "\n    def ", "\n    @", "\nif __name__")


@dataclasses.dataclass(frozen=True)
class Gap:
    """A function's body and as much of the text around it as the model takes."""

    name: str
    prefix: str
    body: str
    suffix: str


def complete_functions(
    model_dir: str, split: str | None, num_functions: int, generation: GenerationConfig
) -> list[Comparison]:
    """Lets a model write functions' bodies, the same ones each time.

    Args:
        model_dir: the model directory.
        split: of a token store, `CACHE_DIR/TASK/validation`; None: that of the run's first task.
        num_functions: how many, at most; each gives two comparisons.
        generation: how it writes; functions with longer bodies are passed over.

    Raises:
        UserError: a folder is missing or damaged, or holds no function that fits.
    """
    model = open_model(model_dir, num_prompts=num_functions)
    tokenizer = Tokenizer.load(f"{model_dir}/{TOKENIZER_FOLDER}")
    folder = split or read_run_stores(model_dir).held_out()
    context, longest = model.config.max_length, generation.max_new_tokens
    gaps = find_gaps(TokenStore.open(folder), tokenizer, num_functions, context, longest)
    if not gaps:
        raise UserError(
            f"{folder} holds no Python function of {BODY_LINES.start} to {BODY_LINES.stop - 1} lines that fits a "
            f"context of {context} tokens; lower --max_new_tokens or choose another store"
        )
    starts = [gap.prefix + indent_of(gap.body) for gap in gaps]
    completed = complete(model, starts, generation, stop=at_strings(NEXT_DEFINITION))
    infilled = infill(model, [(gap.prefix, gap.suffix) for gap in gaps], generation, stop=at_strings((BLANK_LINES,)))
    comparisons = []
    for gap, (left_to_right,), (middle,) in zip(gaps, completed, infilled, strict=True):
        before = "\n".join(gap.prefix.splitlines()[-SHOWN_LINES:])
        after = "\n".join(gap.suffix.splitlines()[:SHOWN_LINES])
        title, continued = f"held-out function {gap.name}", indent_of(gap.body) + left_to_right.text
        comparisons.append(Comparison(f"{title}, continued left to right", before, continued, gap.body))
        comparisons.append(Comparison(f"{title}, infilled", before, middle.text, gap.body, after))
    return comparisons


def find_gaps(
    store: TokenStore, tokenizer: Tokenizer, num_functions: int, context: int, max_body_tokens: int
) -> list[Gap]:
    """The first fitting function of each document, until there are enough."""
    room = (context - max_body_tokens - CONTROL_TOKENS) // 2  # for prefix and suffix each
    gaps = []
    for document in document_texts(store, tokenizer):
        gap = next(document_gaps(document, tokenizer, room, max_body_tokens), None)
        if gap:
            gaps.append(gap)
        if len(gaps) == num_functions:
            return gaps
    return gaps


def indent_of(body: str) -> str:
    """The blanks that a body begins with, given to a model that may else end before it has begun.

    The last is left out: byte-level vocabularies hold it as the first byte of the word that follows.
    """
    return body[: len(body) - len(body.lstrip(" \t"))][:-1]


def document_gaps(document: str, tokenizer: Tokenizer, room: int, max_body_tokens: int) -> Iterator[Gap]:
    """Functions of suitable length; what surrounds them is cut to the nearest whole lines that fit `room` tokens."""

    def fits(text: str, tokens: int) -> bool:
        return len(tokenizer.encode(text)) <= tokens

    for function in extract_functions(document):
        body = document[function.body_start : function.body_end]
        header = document[function.start : function.body_start]
        if len(body.splitlines()) not in BODY_LINES or not fits(body, max_body_tokens) or not fits(header, room):
            continue
        before = document[: function.body_start].splitlines(keepends=True)[-room:]
        while not fits("".join(before), room):
            before.pop(0)
        after = document[function.body_end :].splitlines(keepends=True)[:room]
        while not fits("".join(after), room):
            after.pop()
        yield Gap(function.name, "".join(before), body, "".join(after))
