"""Completes or infills code with a trained or imported model.

python launch/generate.py --model_dir=runs/quickstart --prompt="def fibonacci(n):"
python launch/generate.py --model_dir=runs/quickstart --prefix="def add(a, b):" --suffix="print(add(1, 2))"
python launch/generate.py --model_dir=runs/quickstart --input_file=prompts.jsonl --output_file=completions.jsonl

A file of prompts that was interrupted goes on where it stopped when the same command is run again: what is done lies
beside the output, completions.jsonl.samples.jsonl, until the output is written.
"""

import dataclasses
import sys

from absl import flags
from etils import epath

from t5x_code.checkpoints.manager import absolute_path
from t5x_code.checkpoints.model_directory import TOKENIZER_FOLDER, read_model_directory
from t5x_code.errors import UserError
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import Completion, TextModel, at_strings, complete, infill
from t5x_code.inference.prompt_file import check_lines_fit, holds_surrogates, read_prompt_file
from t5x_code.inference.sampling import Sampling
from t5x_code.output_file import check_writable
from t5x_code.recipes.command_line import run
from t5x_code.recipes.generate import complete_file
from t5x_code.recipes.text_model import text_model
from t5x_code.tokens.tokenizer import Tokenizer

FLAGS = flags.FLAGS
flags.DEFINE_string("model_dir", None, "Model directory: of a training run, or made by launch/convert.py.")
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
    for name in ("prompt", "prefix", "suffix"):
        if holds_surrogates(FLAGS[name].value or ""):
            raise UserError(f"--{name} is not UTF-8: is a character cut in half? give whole ones")
    generation = GenerationConfig(
        max_new_tokens=128 if FLAGS.max_new_tokens is None else FLAGS.max_new_tokens,
        sampling=Sampling(FLAGS.temperature, FLAGS.top_k, FLAGS.top_p),
        num_samples=FLAGS.num_samples,
        seed=FLAGS.seed,
        batch_size=FLAGS.batch_size,
    )
    if FLAGS.input_file is not None:
        lines = read_prompt_file(FLAGS.input_file)
        check_writable(FLAGS.output_file)
    model = load_model()
    if FLAGS.max_new_tokens is None:
        most = min(generation.max_new_tokens, model.config.max_length // 2)
        generation = dataclasses.replace(generation, max_new_tokens=most)
    if FLAGS.input_file is not None:
        check_lines_fit(model, lines, generation.max_new_tokens)
        complete_file(model, lines, FLAGS.output_file, generation, FLAGS.stop)
    elif FLAGS.prompt is not None:
        samples = complete(model, [FLAGS.prompt], generation, stop=at_strings(FLAGS.stop), names=["--prompt"])[0]
        show(FLAGS.prompt, samples, "")
    else:
        gap = [(FLAGS.prefix, FLAGS.suffix)]
        samples = infill(model, gap, generation, stop=at_strings(FLAGS.stop), names=["--prefix and --suffix"])[0]
        show(FLAGS.prefix, samples, FLAGS.suffix)


def load_model() -> TextModel:
    """The model of `--model_dir`."""
    description, params = read_model_directory(FLAGS.model_dir)
    tokenizer = Tokenizer.load(f"{FLAGS.model_dir}/{TOKENIZER_FOLDER}")
    name = str(absolute_path(epath.Path(FLAGS.model_dir)))
    return text_model(description, params, tokenizer, name=name, int8=FLAGS.int8)


def show(before: str, samples: list[Completion], after: str) -> None:
    """Prints each completion in its place; on a terminal it stands out in bold."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    for number, sample in enumerate(samples, 1):
        if len(samples) > 1:
            print(f"---- sample {number} of {len(samples)} ----")
        print(f"{before}{bold}{sample.text}{plain}{after}")


if __name__ == "__main__":
    run(main)
