"""Twenty steps of a tiny model under one of gin/objectives/, and their losses; writes the committed ones when run.

    python tests/golden/golden_run.py [OBJECTIVE ..]

A change that is meant to be exact leaves `losses.json` as it is. One that changes the numbers on purpose (a new
initializer, another draw of spans) is committed together with what this writes.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from t5x_code.errors import UserError

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
LOSSES = FOLDER / "losses.json"
STEPS = 20


def objectives() -> list[str]:
    """Names of the files in gin/objectives/."""
    return sorted(path.stem for path in (ROOT / "gin/objectives").glob("*.gin"))


def losses_of(objective: str, model_dir: str) -> list[float]:
    """The loss of each step, nats per token."""
    from t5x_code.recipes.gin_files import load_recipe
    from t5x_code.recipes.run import train_recipe

    bindings = [
        f"MODEL_DIR='{model_dir}'",
        "MIXTURE='jsonl:tests/golden/corpus.jsonl'",
        "TOKENIZER='tests/golden/tokenizer'",
        f"TRAIN_STEPS={STEPS}",
        "LOG_PERIOD=1",
        "WARMUP_STEPS=4",
        "LEARNING_RATE=2e-3",
        "TransformerConfig.vocab_size=768",
        "TransformerConfig.loss_chunk=512",
    ]
    files = ["gin/codegen2_1b.gin", f"gin/objectives/{objective}.gin", "gin/models/tiny.gin"]
    recipe, resolved = load_recipe(files, bindings)
    train_recipe(recipe, resolved, "golden losses")
    lines = (Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def main(names: list[str]) -> None:
    """Writes `losses.json` anew for the named objectives, or for all that this corpus and tokenizer can train."""
    os.chdir(ROOT)
    golden = json.loads(LOSSES.read_text()) if names else {}
    for objective in names or objectives():
        with tempfile.TemporaryDirectory() as folder:
            try:
                golden[objective] = losses_of(objective, str(Path(folder) / "run"))
            except UserError as error:  # such as pairs, which a file of plain documents does not hold
                print(f"{objective} is left out: {error}", file=sys.stderr)
                continue
        print(f"{objective}: {golden[objective][0]:.4f} -> {golden[objective][-1]:.4f}", file=sys.stderr)
        LOSSES.write_text(json.dumps(dict(sorted(golden.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
