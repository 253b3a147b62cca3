"""Shows what a model writes for held-out functions, beside the original: continued left to right, and infilled.

python launch/show_samples.py --model_dir=runs/quickstart
"""

import dataclasses
import sys
from collections.abc import Iterator

from absl import flags

from t5x_code.checkpoints.model_directory import TOKENIZER_FOLDER, read_model_directory
from t5x_code.data.declarations import VALIDATION
from t5x_code.data.document_texts import document_texts
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import at_strings, complete, infill
from t5x_code.inference.sampling import Sampling
from t5x_code.inference.side_by_side import Comparison, render
from t5x_code.recipes.command_line import run
from t5x_code.recipes.run import read_run_stores
from t5x_code.recipes.text_model import text_model
from t5x_code.source_code.functions import extract_functions
from t5x_code.tokens.tokenizer import Tokenizer

FLAGS = flags.FLAGS
flags.DEFINE_string("model_dir", None, "Model directory.")
flags.DEFINE_string(
    "data", None, "A split of a token store, CACHE_DIR/TASK/validation; default: of the run's first task."
)
flags.DEFINE_integer("num", 2, "Functions to show.")
flags.DEFINE_integer("max_new_tokens", 96, "Tokens to write at most; functions with longer bodies are passed over.")
flags.DEFINE_float("temperature", 0.4, "0 is greedy.")
flags.DEFINE_integer("seed", 0, "Of the draws.")

BODY_LINES = range(3, 13)
SHOWN_LINES = 6  # of the text around a gap
BLANK_LINES = "\n\n\n"  # a young model likes them
NEXT_DEFINITION = (BLANK_LINES, "\ndef ", "\nclass ", "\n@", "\nasync def ", "\n    def ", "\n    @", "\nif __name__")


@dataclasses.dataclass(frozen=True)
class Gap:
    """A function's body and as much of the text around it as the model takes."""

    name: str
    prefix: str
    body: str
    suffix: str


def main(argv: list[str]) -> None:
    """Prints two blocks for each function, the same ones each time."""
    if FLAGS.model_dir is None or FLAGS.num < 1 or len(argv) > 1:
        raise UserError("give --model_dir and --num of 1 or more")
    description, params = read_model_directory(FLAGS.model_dir)
    tokenizer = Tokenizer.load(f"{FLAGS.model_dir}/{TOKENIZER_FOLDER}")
    model = text_model(description, params, tokenizer)
    generation = GenerationConfig(FLAGS.max_new_tokens, Sampling(FLAGS.temperature), seed=FLAGS.seed)
    folder = FLAGS.data or f"{next(iter(read_run_stores(FLAGS.model_dir).folders.values()))}/{VALIDATION}"
    gaps = find_gaps(TokenStore.open(folder), tokenizer, description.config.max_length)
    if not gaps:
        raise UserError(
            f"{folder} holds no Python function of {BODY_LINES.start} to {BODY_LINES.stop - 1} lines that fits a "
            f"context of {description.config.max_length} tokens; lower --max_new_tokens or choose another store"
        )
    starts = [gap.prefix + indent_of(gap.body) for gap in gaps]
    completed = complete(model, starts, generation, stop=at_strings(NEXT_DEFINITION))
    infilled = infill(model, [(gap.prefix, gap.suffix) for gap in gaps], generation, stop=at_strings((BLANK_LINES,)))
    for gap, (left_to_right,), (middle,) in zip(gaps, completed, infilled, strict=True):
        before = "\n".join(gap.prefix.splitlines()[-SHOWN_LINES:])
        after = "\n".join(gap.suffix.splitlines()[:SHOWN_LINES])
        title = f"held-out function {gap.name}"
        for comparison in (
            Comparison(f"{title}, continued left to right", before, indent_of(gap.body) + left_to_right.text, gap.body),
            Comparison(f"{title}, infilled", before, middle.text, gap.body, after),
        ):
            print(render(comparison, colour=sys.stdout.isatty()), end="\n\n")


def find_gaps(store: TokenStore, tokenizer: Tokenizer, context: int) -> list[Gap]:
    """The first fitting function of each document, until there are enough."""
    room = (context - FLAGS.max_new_tokens - 8) // 2  # for prefix and suffix each; 8 leaves space for control tokens
    gaps = []
    for document in document_texts(store, tokenizer):
        gap = next(document_gaps(document, tokenizer, room), None)
        if gap:
            gaps.append(gap)
        if len(gaps) == FLAGS.num:
            return gaps
    return gaps


def indent_of(body: str) -> str:
    """The blanks that a body begins with, given to a model that may else end before it has begun.

    The last is left out: byte-level vocabularies hold it as the first byte of the word that follows.
    """
    return body[: len(body) - len(body.lstrip(" \t"))][:-1]


def document_gaps(document: str, tokenizer: Tokenizer, room: int) -> Iterator[Gap]:
    """Functions of suitable length; what surrounds them is cut to the nearest whole lines that fit."""

    def fits(text: str, tokens: int) -> bool:
        return len(tokenizer.encode(text)) <= tokens

    for function in extract_functions(document):
        body = document[function.body_start : function.body_end]
        header = document[function.start : function.body_start]
        if len(body.splitlines()) not in BODY_LINES or not fits(body, FLAGS.max_new_tokens) or not fits(header, room):
            continue
        before = document[: function.body_start].splitlines(keepends=True)[-room:]
        while not fits("".join(before), room):
            before.pop(0)
        after = document[function.body_end :].splitlines(keepends=True)[:room]
        while not fits("".join(after), room):
            after.pop()
        yield Gap(function.name, "".join(before), body, "".join(after))


if __name__ == "__main__":
    run(main)
