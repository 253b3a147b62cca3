"""Joins a model, its tokenizer and held-out data into one evaluation, and writes what came of it."""

import dataclasses
import functools
import importlib.metadata
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator

import jax
from etils import epath

import t5x_code
from t5x_code.checkpoints.manager import absolute_path
from t5x_code.data.document_texts import held_out_texts
from t5x_code.errors import UserError
from t5x_code.evaluation.registry import check_request, evaluate
from t5x_code.evaluation.request import HeldOutRows, Request, Results, Sampled
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.inference.infilling import TextModel
from t5x_code.output_file import check_writable, jsonable, write_whole
from t5x_code.recipes.compilation_cache import use_compilation_cache
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.inputs import evaluations_from, prepare_inputs, vocabulary_split
from t5x_code.recipes.mixture import resolve_mixture, stores_root
from t5x_code.recipes.open_model import open_model
from t5x_code.recipes.recipe import DataConfig
from t5x_code.recipes.run_files import RECIPE_FILE, STORES_FILE, read_run_stores, read_trained_groups
from t5x_code.recipes.vocabulary import PYTHON_WORDS_FOLDER
from t5x_code.reports.similarity_plot import draw_similarities

OF_MODELS = ("step", "int8", "batch_size")  # flags that say how a model is read and asked
PICTURE_SUFFIX = ".svg"
VERSIONED = ("jax", "jaxlib", "flax", "numpy", "tokenizers")


@dataclasses.dataclass(frozen=True)
class EvaluationCommand:
    """The flags of `launch/evaluate.py`, which says what each is."""

    eval: str
    output: str
    model_dir: str | None = None
    before: str | None = None
    step: int | None = None
    data: str | None = None
    samples: str | None = None
    protocol: str | None = None
    variant: str | None = None
    limit: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_samples: int | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    batch_size: int = 32
    int8: bool = False
    allow_code_execution: bool = False
    allow_without_isolation: bool = False
    isolation: str | None = None
    workers: int | None = None


def evaluate_command(command: EvaluationCommand) -> Results:
    """Evaluates, and writes the results with everything that is needed to repeat them.

    Raises:
        UserError: bad input of any kind.
    """
    _refuse_output(command)
    request = _request(command)
    check_request(request)  # before a large model is read for nothing
    use_compilation_cache()
    start = time.time()
    if command.model_dir:
        request = dataclasses.replace(request, model=_open(command), batches=_batches(command))
    if command.before:
        second = dataclasses.replace(command, model_dir=command.before, step=None)
        request = dataclasses.replace(request, before=_open(second))
    loaded = time.time()
    results = evaluate(request)
    results = {
        "eval": command.eval,
        **results,
        "settings": dataclasses.asdict(command),
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"t5x_code": t5x_code.__version__, "python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in VERSIONED},
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "timings": {
            **results.get("timings", {}),
            "load_seconds": loaded - start,
            "total_seconds": time.time() - start,
        },
    }
    write_whole(command.output, json.dumps(jsonable(results), indent=2) + "\n")
    if "similarities" in results:
        picture = str(epath.Path(command.output).with_suffix(PICTURE_SUFFIX))
        write_whole(picture, draw_similarities(results["similarities"], "Similarity to the query"))
    return results


def _request(command: EvaluationCommand) -> Request:
    """What the flags ask for, without the models."""
    sampled = {field.name: getattr(command, field.name) for field in dataclasses.fields(Sampled)}
    output = epath.Path(command.output)
    if command.before and command.eval != "logic_equivalence":
        raise UserError(f"--before does nothing in --eval={command.eval}; leave it out")
    if command.model_dir and command.samples:
        raise UserError("--model_dir does nothing to --samples, which are drawn already; give one of them")
    if command.samples:
        _refuse_of_models(command)
    return Request(
        name=command.eval,
        trained_groups=frozenset(read_trained_groups(command.model_dir) if command.model_dir else ()),
        data=command.data,
        samples=command.samples,
        keep_samples=str(output.with_name(f"{output.stem}.samples.jsonl")),
        protocol=command.protocol,
        variant=command.variant,
        limit=command.limit,
        sampled=Sampled(**sampled),
        execution=Execution(
            command.allow_code_execution, command.allow_without_isolation, command.isolation, command.workers
        ),
        held_out=_held_out(command),
    )


def _refuse_output(command: EvaluationCommand) -> None:
    """Raises a UserError where the results cannot be written, or would take the place of what they are made of."""
    check_writable(command.output)
    output = epath.Path(command.output)
    if output.suffix == PICTURE_SUFFIX:
        raise UserError(f"--output={output} is the name of a picture, which lies beside the results; write .json")
    for name in ("samples", "data"):
        given = getattr(command, name)
        if given is not None and absolute_path(epath.Path(given)) == absolute_path(output):
            raise UserError(f"--output={output} is the file of --{name}, which it would replace; give another")


def _refuse_of_models(command: EvaluationCommand) -> None:
    """Raises a UserError that names a flag which was given and would do nothing without a model."""
    for name in OF_MODELS:
        if getattr(command, name) != getattr(EvaluationCommand, name):
            raise UserError(f"--{name} does nothing to --samples, which are drawn already; leave it out")


def _open(command: EvaluationCommand) -> TextModel:
    return open_model(command.model_dir, command.step, int8=command.int8)


def _held_out(command: EvaluationCommand) -> Callable[[], Iterator[str]] | None:
    """The text of `--data`, else what the run held back of its first task."""
    if command.data:
        return functools.partial(held_out_texts, command.data)
    if command.model_dir and (epath.Path(command.model_dir) / STORES_FILE).exists():
        stores = read_run_stores(command.model_dir)
        return lambda: held_out_texts(stores.held_out())
    return None


def _batches(command: EvaluationCommand) -> Callable[[], HeldOutRows] | None:
    """The run's own validation batches, made from its resolved recipe."""
    recipe_file = epath.Path(command.model_dir) / RECIPE_FILE
    if not recipe_file.exists():
        return None

    def make() -> HeldOutRows:
        recipe, _ = load_recipe([str(recipe_file)])
        data = dataclasses.replace(recipe.data, stores=command.data or recipe.data.stores)
        if command.data:
            _refuse_missing_stores(data)
        inputs = prepare_inputs(data, recipe.model.vocab_size)
        split = vocabulary_split(inputs)
        batches = evaluations_from(inputs, data, recipe.eval_batch_size, 0, 1)
        return HeldOutRows(batches, split.allowed_2xW if split else None)

    return make


def _refuse_missing_stores(data: DataConfig) -> None:
    """Raises a UserError where a folder of stores lacks one of the recipe's: it would be made there from its source."""
    root = stores_root(data)
    for task in resolve_mixture(data).tasks:
        if not any((folder / task.name).exists() for folder in (root, root / PYTHON_WORDS_FOLDER)):
            raise UserError(
                f"--data={root} holds no store {task.name}; of --eval=loss it is the folder of the recipe's stores, "
                "which launch/cache.py makes. Leave it out to take the run's own"
            )
