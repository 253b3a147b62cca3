"""Which recipe fits which hardware: each compiled ahead of time for its topology, as a table for the README.

    python benchmarks/fits.py --output=fits.json [--only=codegen2_1b] [--readme=README.md]

Takes one to two minutes per line and no accelerator; needs the extras tpu and gpu-aot. With --only the other lines are
kept as --output has them, so that the two compilers may live in two environments. Times are lower bounds: no step of
that recipe is faster, however it is scheduled; and the estimate of TPUs' compiler (`parallel/estimate.py`), the one
that MFU is of.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import turns
from absl import flags

from t5x_code.progress import progress_bar
from t5x_code.recipes import command_line

GIB, MS = 2**30, 1e3

COLUMNS = (
    "recipe",
    "hardware",
    "mesh",
    "remat, rows at a time",
    "needs, of GiB",
    "step at least",
    "bound by",
    "estimate",
    "its MFU",
)

_ONLY = flags.DEFINE_string("only", "", "Compile only targets whose line matches this regular expression.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results; lines that are not compiled now stay.")
_README = flags.DEFINE_string("readme", None, "File whose marked table is replaced.")


@dataclasses.dataclass(frozen=True)
class Target:
    """A recipe and the hardware that it names."""

    recipe: str
    mesh: str
    topology: str
    num_slices: int = 1
    model: str | None = None  # of gin/models/, in place of the recipe's

    @property
    def name(self) -> str:
        slices = f"{self.num_slices} x " if self.num_slices > 1 else ""
        return f"{self.model or self.recipe} on {slices}{self.topology}"


TARGETS = (
    Target("codegen2_1b", "tpu_v5e_16", "v5e:4x4"),
    Target("codegen2_1b", "tpu_v4_64", "v4:4x4x4"),
    Target("codegen2_1b", "gpu_8", "h100:1x8"),
    Target("codegen2_3_7b", "tpu_v5p_64", "v5p:4x4x4"),
    Target("codegen2_3_7b", "tpu_v6e_64", "v6e:8x8"),
    Target("codegen2_7b", "tpu_v5p_64", "v5p:4x4x4"),
    Target("codegen2_7b", "tpu_v6e_64", "v6e:8x8"),
    Target("codegen2_16b", "tpu_v4_512", "v4:8x8x8"),
    Target("codegen2_16b", "tpu_v5p_512", "v5p:8x8x8"),
    Target("codegen2_16b", "tpu_2x_v5e_256", "v5e:16x16", num_slices=2),
    Target("ntp_plus_starcoder_1b", "all_devices", "v5e:2x4"),
    Target("ntp_plus_codellama_7b", "all_devices", "v5e:2x4"),
    Target("modality_prefix_code_clm_full", "all_devices", "v5e:1x1"),
    Target("codegen2_7b", "tpu_v5p_64", "v5p:4x4x4", model="codellama_7b"),
    Target("codegen2_7b", "tpu_v6e_64", "v6e:8x8", model="codellama_7b"),
    Target("codegen2_16b", "tpu_v4_512", "v4:8x8x8", model="starcoderbase_15_5b"),
    Target("codegen2_16b", "tpu_v5p_512", "v5p:8x8x8", model="starcoderbase_15_5b"),
    Target("codegen2_16b", "tpu_2x_v5e_256", "v5e:16x16", num_slices=2, model="starcoderbase_15_5b"),
)


def main(argv: list[str]) -> None:
    """Compiles each target, prints the table."""
    del argv
    reports = json.loads(Path(_OUTPUT.value).read_text()) if _OUTPUT.value and Path(_OUTPUT.value).exists() else {}
    for target in progress_bar([target for target in TARGETS if re.search(_ONLY.value, target.name)], unit="target"):
        reports[target.name] = compile_target(target)
        if _OUTPUT.value:
            Path(_OUTPUT.value).write_text(json.dumps(reports, indent=2) + "\n")
    table = make_table([(target, reports[target.name]) for target in TARGETS if target.name in reports])
    print(table)
    if _README.value:
        turns.replace_table(Path(_README.value), "fits", table)


def compile_target(target: Target) -> dict[str, Any]:
    """One line's report."""
    from t5x_code.recipes.compile_ahead import compile_recipe
    from t5x_code.recipes.gin_files import load_recipe

    model = [f"gin/models/{target.model}.gin"] if target.model else []
    files = [f"gin/{target.recipe}.gin", *model, f"gin/meshes/{target.mesh}.gin"]
    recipe, _ = load_recipe(files)
    return compile_recipe(recipe, target.topology, target.num_slices).to_json()


def make_table(lines: list[tuple[Target, dict[str, Any]]]) -> str:
    """In Markdown."""
    rows = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for target, report in lines:
        slices = f"{target.num_slices} x " if target.num_slices > 1 else ""
        mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1) or "one device"
        model = f"`{target.model or target.recipe}`"
        cells = [model, f"{slices}{target.topology}", mesh, f"{report['remat']}, {report['microbatch_size']}"]
        if report["fits"]:
            memory, bounds = report["memory"], report["bounds"]
            cells += [
                f"{memory['needed'] / GIB:.1f} of {memory['available'] / GIB:.0f}",
                f"{bounds['step'] * MS:,.0f} ms",
                bounds["limit"],
            ]
            if estimate := report["estimate"]:
                cells += [f"{estimate['step'] * MS:,.0f} ms", f"{report['mfu_estimated']:.0%}"]
            else:
                cells += ["", f"at most {report['mfu_at_most']:.0%}"]
        else:
            cells += ["does not fit", "", "", "", ""]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    command_line.run(main)
