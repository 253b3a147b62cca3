"""Shows what a model writes for held-out functions, beside the original: continued left to right, and infilled.

python launch/show_samples.py --model_dir=runs/quickstart
"""

import sys

from absl import flags

from t5x_code.errors import UserError
from t5x_code.recipes.command_line import run

FLAGS = flags.FLAGS
flags.DEFINE_string("model_dir", None, "Model directory.")
flags.DEFINE_string(
    "data", None, "A split of a token store, CACHE_DIR/TASK/validation; default: of the run's first task."
)
flags.DEFINE_integer("num", 2, "Functions to show.")
flags.DEFINE_integer("max_new_tokens", 96, "Tokens to write at most; functions with longer bodies are passed over.")
flags.DEFINE_float("temperature", 0.4, "0 is greedy.")
flags.DEFINE_integer("seed", 0, "Of the draws.")


def main(argv: list[str]) -> None:
    """Prints two blocks for each function, the same ones each time."""
    if FLAGS.model_dir is None or FLAGS.num < 1 or len(argv) > 1:
        raise UserError("give --model_dir and --num of 1 or more")
    # Imported here, so that --help and a misspelt flag answer at once.
    from t5x_code.inference.generation import GenerationConfig
    from t5x_code.inference.sampling import Sampling
    from t5x_code.inference.side_by_side import render
    from t5x_code.recipes.held_out_functions import complete_functions

    generation = GenerationConfig(FLAGS.max_new_tokens, Sampling(FLAGS.temperature), seed=FLAGS.seed)
    for comparison in complete_functions(FLAGS.model_dir, FLAGS.data, FLAGS.num, generation):
        print(render(comparison, colour=sys.stdout.isatty()), end="\n\n")


if __name__ == "__main__":
    run(main)
