"""Twenty steps of a tiny model under one of gin/objectives/, and their losses; writes the committed ones when run.

    python tests/golden/golden_run.py [OBJECTIVE ..]

A change that is meant to be exact leaves `losses.json` as it is. One that changes the numbers on purpose (a new
initializer, another draw of spans) is committed together with what this writes.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from t5x_code.tokens.special_tokens import FIM_TEXTS, PAIR_TEXTS
from t5x_code.tokens.tokenizer import TOKENIZER_FILE

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
LOSSES = FOLDER / "losses.json"
STEPS = 20


def objectives() -> list[str]:
    """Names of the files in gin/objectives/."""
    return sorted(path.stem for path in (ROOT / "gin/objectives").glob("*.gin"))


def task_of(objective: str, folder: Path) -> list[str]:
    """Gin bindings of what an objective can be made of: a committed corpus, and the committed tokenizer or, in
    `folder`, one with more tokens.
    """
    if "code_clm" in objective:
        kind, length = "jsonl_pairs:tests/golden/pairs.jsonl", 512
    elif objective.startswith(("ntp_plus", "equivalence")):
        kind, length = "problems:tests/golden/problems.jsonl", 512
    else:
        kind, length = "jsonl:tests/golden/corpus.jsonl", 128
    tokenizer, vocab_size = Path("tests/golden/tokenizer"), 768
    if length > 128 or objective == "infill_spm":
        tokenizer, vocab_size = with_more_tokens(tokenizer, folder), 896
    return [
        f"MIXTURE='{kind}'",
        f"SEQUENCE_LENGTH={length}",
        f"TOKENIZER='{tokenizer}'",
        f"TransformerConfig.vocab_size={vocab_size}",
    ]


def with_more_tokens(tokenizer: Path, folder: Path) -> Path:
    """A copy that also has the tokens of docstring-code pairs and of StarCoder's infilling."""
    shutil.copytree(tokenizer, folder)
    codec = tokenizers.Tokenizer.from_file(str(tokenizer / TOKENIZER_FILE))
    codec.add_special_tokens([*PAIR_TEXTS, *FIM_TEXTS])
    codec.save(str(folder / TOKENIZER_FILE))
    return folder


def losses_of(objective: str, model_dir: str, changes: Sequence[str] = ()) -> list[float]:
    """The loss of each step, nats per token; `changes` are gin bindings beside the committed ones."""
    from t5x_code.recipes.gin_files import load_recipe
    from t5x_code.recipes.run import train_recipe

    bindings = [
        f"MODEL_DIR='{model_dir}'",
        *task_of(objective, Path(f"{model_dir}_tokenizer")),
        f"TRAIN_STEPS={STEPS}",
        "LOG_PERIOD=1",
        "WARMUP_STEPS=4",
        "LEARNING_RATE=2e-3",
        "TransformerConfig.loss_chunk=512",
        "TransformerConfig.initializer_range=0.02",  # for all matrices; test_decoder holds the other way
        *changes,
    ]
    files = ["gin/codegen2_1b.gin", f"gin/objectives/{objective}.gin", "gin/models/tiny.gin"]
    recipe, resolved = load_recipe(files, bindings)
    train_recipe(recipe, resolved, "golden losses")
    lines = (Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def main(names: list[str]) -> None:
    """Writes `losses.json` anew, for the named objectives or for all."""
    os.chdir(ROOT)
    golden = json.loads(LOSSES.read_text()) if names else {}
    for objective in names or objectives():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["T5X_CODE_CACHE"] = str(Path(folder) / "cache")  # a store belongs to one tokenizer
            golden[objective] = losses_of(objective, str(Path(folder) / "run"))
        print(f"{objective}: {golden[objective][0]:.4f} -> {golden[objective][-1]:.4f}", file=sys.stderr)
        LOSSES.write_text(json.dumps(dict(sorted(golden.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
