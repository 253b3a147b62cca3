"""Makes a task's token store: reads its documents, drops duplicates and benchmark answers, tokenizes, splits.

    python launch/cache.py --task=python_stdlib --output=CACHE_DIR
    python launch/cache.py --task='parquet:/data/the_stack/*/*.parquet?lang=python,go' --output=CACHE_DIR \\
        --tokenizer=Salesforce/codegen2-1B_P --mbpp=mbpp.jsonl
    python launch/cache.py --module=my_tasks --task=my_seqio_task --output=CACHE_DIR
    python launch/cache.py --task=parquet:gs://bucket/the_stack/*.parquet --output=gs://bucket/stores \\
        --tokenizer=Salesforce/codegen2-1B_P --runner=DataflowRunner --runner_option=project=P \\
        --runner_option=region=R --runner_option=sdk_container_image=IMAGE_WITH_T5X_CODE

Train on it with --gin.DATA="'CACHE_DIR'". Without --tokenizer a byte-level BPE is trained on the corpus itself, by this
machine, and kept in CACHE_DIR/tokenizers. A mixture's name (code_nl) makes the stores of all its tasks, with one
tokenizer for them all.
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence

from absl import flags
from etils import epath

from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.caching.build import build_store
from t5x_code.data.caching.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_folder, fitted
from t5x_code.data.caching.ensure import ensure_store
from t5x_code.data.declarations import SPLITS, TRAIN, TaskDeclaration
from t5x_code.data.manifest import Manifest
from t5x_code.errors import UserError
from t5x_code.recipes.command_line import run
from t5x_code.tokens.tokenizer import TOKENIZER_FILE, Tokenizer

TASK = flags.DEFINE_string("task", None, "A built-in task or mixture, KIND:PATH, or a task of --module.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of token stores, local or a bucket.")
TOKENIZER = flags.DEFINE_string("tokenizer", None, "Folder or hub name of a fast tokenizer; default: trained here.")
NUM_MASKS = flags.DEFINE_integer(
    "num_masks", None, "Add <sep>, <eom> and as many masks to a tokenizer that cannot infill, such as Llama's."
)
PYTHON_WORDS = flags.DEFINE_bool(
    "python_words", False, "Add Python's words that the tokenizer lacks, as MODALITY_SEPARATION='partial' needs."
)
MODULE = flags.DEFINE_string("module", None, "Python module that registers --task with SeqIO.")
MBPP = flags.DEFINE_string(
    "mbpp", None, "MBPP's JSONL file, to keep its problems out; HumanEval's are kept out anyway."
)
RUNNER = flags.DEFINE_string(
    "runner", None, "Apache Beam's runner: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner."
)
RUNNER_OPTIONS = flags.DEFINE_multi_string("runner_option", [], "NAME=VALUE for the runner; may be repeated.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a store of that name.")


def main(argv: list[str]) -> None:
    """Makes the stores of --task."""
    if not TASK.value or not OUTPUT.value:
        raise UserError("--task and --output are needed, as in --task=python_stdlib --output=CACHE_DIR")
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]}; flags are written --name=value")
    tasks, tokenizer = _what_to_make()
    build = functools.partial(_builder(), mbpp=MBPP.value, overwrite=OVERWRITE.value)
    for task in tasks:
        if OVERWRITE.value:
            store = build(task, tokenizer, OUTPUT.value)
        else:
            store = ensure_store(
                task, tokenizer, OUTPUT.value, build, tokenizer_flags=_tokenizer_flags(), other_flags=_other_flags()
            )
        if MBPP.value and "mbpp" in Manifest.read(store / TRAIN).benchmarks_not_searched:
            raise UserError(f"{store} was made without --mbpp; add --overwrite to make it again")
        manifests = [Manifest.read(store / split) for split in SPLITS]
        for manifest in manifests:
            print(_summary(manifest))
        skipped = "".join(f"; {count} skipped ({reason})" for reason, count in manifests[0].skipped.items())
        print(f"{task.name}: {store}, with its tokenizer of {tokenizer.vocab_size} entries{skipped}")


def _builder() -> Callable[..., epath.Path]:
    """In this process, or with Beam where a runner is named."""
    if not RUNNER.value:
        if RUNNER_OPTIONS.value:
            raise UserError(f"--runner_option={RUNNER_OPTIONS.value[0]} needs --runner, as in --runner=DirectRunner")
        return build_store
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError("--runner needs Apache Beam; pip install 't5x_code[beam]'")
    from t5x_code.data.caching.beam import build_store_with_beam  # seconds to import

    return functools.partial(build_store_with_beam, runner=RUNNER.value, options=RUNNER_OPTIONS.value)


def _what_to_make() -> tuple[Sequence[TaskDeclaration], Tokenizer]:
    if MODULE.value:
        if _tokenizer_flags():
            raise UserError(f"{_tokenizer_flags()[0]} does not go with --module: a SeqIO task brings its vocabulary")
        try:
            from t5x_code.data.tasks import declaration_from_seqio  # TensorFlow, seconds to import
        except ImportError as error:
            raise UserError("SeqIO's tasks need SeqIO and TensorFlow; pip install 't5x_code[data]'") from error
        task, tokenizer = declaration_from_seqio(MODULE.value, TASK.value)
        return [task], tokenizer
    tasks = declaration_for(TASK.value).tasks
    if not TOKENIZER.value:
        _refuse_large_sample(tasks)
    tokenizer = Tokenizer.load(TOKENIZER.value or str(embedded_tokenizer(OUTPUT.value, tasks)))
    if NUM_MASKS.value is not None:
        tokenizer = tokenizer.with_infill_tokens(NUM_MASKS.value)
    tokenizer = fitted(tokenizer, tasks)
    return tasks, tokenizer.with_python_words() if PYTHON_WORDS.value else tokenizer


def _refuse_large_sample(tasks: Sequence[TaskDeclaration]) -> None:
    """Raises a UserError if a tokenizer were to be trained here on what takes many machines to read."""
    if not RUNNER.value or "direct" in RUNNER.value.lower():  # Beam's names of runners on this machine
        return
    if not (embedded_tokenizer_folder(OUTPUT.value, tasks) / TOKENIZER_FILE).exists():
        raise UserError(
            f"--runner={RUNNER.value} needs --tokenizer: without it this machine alone would read the whole corpus to "
            "train one. Make a store of a part of the corpus without --runner, then add "
            "--tokenizer=OUTPUT/TASK/tokenizer of that store"
        )


def _tokenizer_flags() -> list[str]:
    """Those of this command line that say which tokenizer the stores are made with."""
    flags_given = {
        "tokenizer": TOKENIZER.value,
        "num_masks": NUM_MASKS.value,
        "python_words": PYTHON_WORDS.value or None,
    }
    return [f"--{name}={value}" for name, value in flags_given.items() if value is not None]


def _other_flags() -> list[str]:
    """Those that say what is kept out of the stores, and where they are made."""
    flags_given = {"mbpp": MBPP.value, "runner": RUNNER.value}
    named = [f"--{name}={value}" for name, value in flags_given.items() if value]
    return named + [f"--runner_option={option}" for option in RUNNER_OPTIONS.value]


def _summary(manifest: Manifest) -> str:
    """One line on what a split holds and what was left out of it."""
    left_out = {"duplicates": manifest.duplicates}
    left_out |= {f"holding {name}": count for name, count in manifest.decontaminated.items()}
    left_out = ", ".join(f"{count} {what}" for what, count in left_out.items() if count) or "nothing"
    unsearched = "".join(f"; {name} not searched: {why}" for name, why in manifest.benchmarks_not_searched.items())
    return (
        f"{manifest.task} {manifest.split}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens, "
        f"{manifest.num_bytes / max(1, manifest.num_tokens):.2f} bytes per token; left out: {left_out}{unsearched}"
    )


if __name__ == "__main__":
    run(main)
