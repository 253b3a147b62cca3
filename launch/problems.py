"""Makes a file of problems with several solutions each, for NTP+ and --eval=logic_equivalence.

    python launch/problems.py --layout=codenet --source=Project_CodeNet --output=codenet.jsonl.gz
    python launch/problems.py --layout=apps --source=APPS --output=apps.jsonl.gz

The layouts are described in t5x_code/source_code/problem_layouts.py, the file in source_code/problems.py.
"""

import csv
import gzip
import json
import os
from pathlib import Path

from absl import flags

from t5x_code.errors import UserError
from t5x_code.output_file import check_writable
from t5x_code.progress import progress_bar
from t5x_code.recipes.command_line import run
from t5x_code.source_code.problem_layouts import LAYOUTS

LAYOUT = flags.DEFINE_enum("layout", None, sorted(LAYOUTS), "What the source is.")
SOURCE = flags.DEFINE_string("source", None, "Its folder.")
OUTPUT = flags.DEFINE_string("output", None, "The file to write, .jsonl or .jsonl.gz.")
MIN_SOLUTIONS = flags.DEFINE_integer("min_solutions", 2, "Problems with fewer are left out.", lower_bound=1)
MAX_SOLUTIONS = flags.DEFINE_integer("max_solutions", 64, "Of a problem, the first so many are written.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Writes under a temporary name, then renames."""
    if not (LAYOUT.value and SOURCE.value and OUTPUT.value) or len(argv) > 1:
        raise UserError("give --layout, --source and --output")
    if MAX_SOLUTIONS.value < MIN_SOLUTIONS.value:
        least = f"--min_solutions={MIN_SOLUTIONS.value}"
        raise UserError(f"--max_solutions={MAX_SOLUTIONS.value} is less than {least}, which no problem would reach")
    check_writable(OUTPUT.value)
    output = Path(OUTPUT.value)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    num_problems = num_solutions = 0
    try:
        with gzip.open(partial, "wt") if output.suffix == ".gz" else partial.open("w") as file:
            for problem in progress_bar(LAYOUTS[LAYOUT.value](Path(SOURCE.value)), unit="problem"):
                solutions = list(dict.fromkeys(problem.solutions))[: MAX_SOLUTIONS.value]
                if len(solutions) >= MIN_SOLUTIONS.value:
                    fields = {"problem_id": problem.problem_id, "language": problem.language, "solutions": solutions}
                    file.write(json.dumps(fields) + "\n")
                    num_problems, num_solutions = num_problems + 1, num_solutions + len(solutions)
        if not num_problems:
            few = f"no problem there has {MIN_SOLUTIONS.value} solutions"
            raise UserError(f"{SOURCE.value}: {few}; is it unpacked whole? --min_solutions may be lower")
        partial.replace(output)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        raise UserError(f"cannot convert {SOURCE.value} to {output}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    print(f"{output}: {num_problems:,} problems, {num_solutions:,} solutions")


if __name__ == "__main__":
    run(main)
