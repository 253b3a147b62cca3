"""Writes a page that shows what a recipe's model is shown, token by token.

python launch/view_examples.py --gin_file=gin/quickstart.gin --steps=0:3 --output=examples.html
"""

import re

from absl import flags

from t5x_code.errors import UserError
from t5x_code.progress import progress_bar
from t5x_code.recipes import command_line

command_line.define_recipe_flags()
STEPS = flags.DEFINE_string("steps", "0:1", "Training steps to show, FIRST:STOP.")
OUTPUT = flags.DEFINE_string("output", None, "HTML file to write.")


def main(argv: list[str]) -> None:
    """Makes the recipe's rows and writes the page."""
    match = re.fullmatch(r"(\d+):(\d+)", STEPS.value)
    if OUTPUT.value is None or len(argv) > 1:
        raise UserError("give --gin_file and --output, as in --gin_file=gin/quickstart.gin --output=examples.html")
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--steps={STEPS.value}: write FIRST:STOP, as in 0:3")
    from t5x_code.output_file import check_writable, write_whole
    from t5x_code.recipes.gin_files import load_recipe
    from t5x_code.recipes.inputs import prepare_inputs
    from t5x_code.recipes.shown_rows import shown_rows, shown_tokens
    from t5x_code.reports.example_viewer import render

    check_writable(OUTPUT.value)
    recipe, _ = load_recipe(flags.FLAGS.gin_file, flags.FLAGS.gin_binding)
    inputs = prepare_inputs(recipe.data, recipe.model.vocab_size)
    steps = range(int(match[1]), int(match[2]))
    rows = list(progress_bar(shown_rows(inputs, recipe, steps), unit="row"))
    subtitle = f"{' + '.join(flags.FLAGS.gin_file)} · steps {STEPS.value} · seed {recipe.data.seed}"
    page = render(rows, shown_tokens(inputs), subtitle)
    write_whole(OUTPUT.value, page)
    print(f"{OUTPUT.value}: {len(rows)} rows, {len(page.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    command_line.run(main)
