"""Completes or infills code with a trained or imported model.

python launch/generate.py --model_dir=runs/quickstart --prompt="def fibonacci(n):"
python launch/generate.py --model_dir=runs/quickstart --prefix="def add(a, b):" --suffix="print(add(1, 2))"
python launch/generate.py --model_dir=runs/quickstart --input_file=prompts.jsonl --output_file=completions.jsonl

A file of prompts that was interrupted goes on where it stopped when the same command is run again: what is done lies
beside the output, completions.jsonl.samples.jsonl, until the output is written.
"""

import sys
from collections.abc import Sequence

from absl import flags

from t5x_code.errors import UserError
from t5x_code.recipes.command_line import run

FLAGS = flags.FLAGS
flags.DEFINE_string("model_dir", None, "Model directory, or a Hugging Face folder.")
flags.DEFINE_string("prompt", None, "Text to continue.")
flags.DEFINE_string("prefix", None, "Text before the gap to fill.")
flags.DEFINE_string("suffix", None, "Text after the gap to fill.")
flags.DEFINE_string("input_file", None, 'JSONL file; each line {"prompt"} or {"prefix", "suffix"}.')
flags.DEFINE_string("output_file", None, 'JSONL file to write: the input\'s lines plus {"completions": [..]}.')
flags.DEFINE_integer("max_new_tokens", None, "Tokens to write at most; default: 128, or half of a shorter context.")
flags.DEFINE_float("temperature", 0.0, "0 is greedy; higher is more varied.")
flags.DEFINE_float("top_p", 1.0, "Draw from the fewest tokens that hold this probability.")
flags.DEFINE_integer("top_k", 0, "Draw from the k likeliest tokens; 0 is all of them.")
flags.DEFINE_integer("num_samples", 1, "Completions of each prompt.")
flags.DEFINE_integer("seed", 0, "Of the draws.")
flags.DEFINE_bool("int8", False, "Round the weights to 8 bits: less memory, and slightly other texts.")
flags.DEFINE_integer("batch_size", 32, "Completions that are written at a time, at most.")
flags.DEFINE_multi_string("stop", [], "Text that ends a completion, itself left out; may be repeated.")

MODES = ({"prompt"}, {"prefix", "suffix"}, {"input_file", "output_file"})


def main(argv: list[str]) -> None:
    """Checks the flags, then answers one prompt on the terminal or a file of them."""
    given = {name for mode in MODES for name in mode if FLAGS[name].value is not None}
    if FLAGS.model_dir is None or given not in MODES or len(argv) > 1:
        raise UserError(
            "give --model_dir and one of: --prompt | --prefix and --suffix | --input_file and --output_file"
        )
    if "" in FLAGS.stop:
        raise UserError("--stop is empty, which every text begins with; leave it out")
    # Imported here, so that --help and a misspelt flag answer at once.
    from t5x_code.recipes.generate import GenerateCommand, generate_command

    command = GenerateCommand(**{name: FLAGS[name].value for name in GenerateCommand.__dataclass_fields__})
    texts = [completion.text for completion in generate_command(command)]
    show(FLAGS.prefix if FLAGS.prompt is None else FLAGS.prompt, texts, FLAGS.suffix or "")


def show(before: str, texts: Sequence[str], after: str) -> None:
    """Prints each completion in its place; on a terminal it stands out in bold."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    for number, text in enumerate(texts, 1):
        if len(texts) > 1:
            print(f"---- sample {number} of {len(texts)} ----")
        print(f"{before}{bold}{text}{plain}{after}")


if __name__ == "__main__":
    run(main)
