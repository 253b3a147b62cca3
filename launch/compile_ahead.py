"""Compiles a recipe's training step for hardware that is not here: memory, collectives, lower bounds of its time.

    python launch/compile_ahead.py --gin_file=gin/codegen2_7b.gin --gin_file=gin/meshes/tpu_v5p_64.gin \\
        --topology=v5p:4x4x4 [--num_slices=2] [--search] [--output=report.json]

Needs a CPU and the vendor's compiler: pip install -e '.[tpu]', or '.[gpu-aot]' for GPUs (h100:32x8 is 32 hosts of 8).
A vocabulary that is split by modality has the size that its tokenizer gives: that of the recipe's stores, or the one
that --gin.TOKENIZER="'FOLDER or hub name'" names; for the embedded corpus it is trained in seconds.
With --search it finds the largest microbatch under each remat policy. Exits with 1 if the step does not fit.
"""

import json
import sys

from absl import flags

from t5x_code.errors import UserError
from t5x_code.recipes import command_line

command_line.define_recipe_flags()
TOPOLOGY = flags.DEFINE_string("topology", None, "Chip and arrangement, such as v5e:4x4, v5p:8x8x8 or h100:1x8.")
NUM_SLICES = flags.DEFINE_integer("num_slices", None, "TPU slices; default: the recipe's mesh's.", lower_bound=1)
SEARCH = flags.DEFINE_bool("search", False, "Look for the best remat policy and microbatch size that fit.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for the report, or with --search the list of them.")


def main(argv: list[str]) -> None:
    """Compiles, prints, writes."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]}; flags are written --name=value")
    if TOPOLOGY.value is None:
        raise UserError("--topology is needed, as in --topology=v5p:8x8x8 or --topology=h100:1x8")
    from t5x_code.output_file import check_writable, write_whole
    from t5x_code.recipes.ahead_text import describe_report, describe_search
    from t5x_code.recipes.compile_ahead import compile_recipe, search
    from t5x_code.recipes.gin_files import load_recipe

    if OUTPUT.value:
        check_writable(OUTPUT.value)
    recipe, _ = load_recipe(flags.FLAGS.gin_file, flags.FLAGS.gin_binding)
    num_slices = NUM_SLICES.value or recipe.mesh.num_slices
    if SEARCH.value:
        reports = search(recipe, TOPOLOGY.value, num_slices)
        print(describe_search(reports))
        fits, written = bool(reports), [report.to_json() for report in reports]
    else:
        report = compile_recipe(recipe, TOPOLOGY.value, num_slices)
        print(describe_report(report))
        fits, written = report.fits, report.to_json()
    if OUTPUT.value:
        write_whole(OUTPUT.value, json.dumps(written, indent=2) + "\n")
    if not fits:
        sys.exit(1)


if __name__ == "__main__":
    command_line.run(main)
