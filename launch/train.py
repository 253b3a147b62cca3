"""Trains a recipe: python launch/train.py --gin_file=gin/quickstart.gin [--gin.NAME=value] [--dry_run]."""

import os
import shlex
import sys

from absl import flags

from t5x_code.errors import UserError
from t5x_code.recipes import command_line

command_line.define_recipe_flags()
flags.DEFINE_string(
    "coordinator_address", None, "Of several processes: host:port of the first; where nothing names it."
)
flags.DEFINE_integer("num_processes", None, "How many there are.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0 on.")
flags.DEFINE_integer(
    "exit_code_when_stopped",
    0,
    "What to end with when asked to stop and all is saved; launchers that start again on it set it.",
)
flags.DEFINE_bool("dry_run", False, "Print the resolved recipe, its size and memory per device, and touch nothing.")


def main(argv: list[str]) -> None:
    """Loads the recipe, then describes it or trains it."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]}; flags are written --name=value")
    # Imported here, so that --help and a misspelt flag answer at once.
    from t5x_code.recipes.gin_files import load_recipe

    recipe, resolved = load_recipe(flags.FLAGS.gin_file, flags.FLAGS.gin_binding)
    if flags.FLAGS.dry_run:
        from t5x_code.recipes.dry_run import describe

        print(describe(recipe, resolved))
        return
    from t5x_code.parallel.hosts import PROCESS_VARIABLES
    from t5x_code.recipes.run import train_recipe

    for variable in PROCESS_VARIABLES:  # a flag says the same as its variable, and wins
        value = flags.FLAGS[variable.removeprefix("JAX_").lower()].value
        if value is not None:
            os.environ[variable] = str(value)
    steps = train_recipe(recipe, resolved, command=shlex.join(["python", *sys.argv]))
    if steps < recipe.loop.train_steps:  # asked to stop, and saved
        sys.exit(flags.FLAGS.exit_code_when_stopped)


if __name__ == "__main__":
    command_line.run(main)
