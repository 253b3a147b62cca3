"""Joins a recipe's data and its model in one training run."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

import t5x_code
from t5x_code.buckets import in_bucket
from t5x_code.checkpoints.manager import absolute_path, newest_step
from t5x_code.checkpoints.model_directory import (
    TOKENIZER_FOLDER,
    ModelDescription,
    refuse_other_model,
)
from t5x_code.checkpoints.model_step import CHECKPOINTS_FOLDER
from t5x_code.errors import RunAgain, UserError, one_line
from t5x_code.models.config import AUTO
from t5x_code.models.modality import split_config
from t5x_code.parallel.cpu import run_programs_in_turn
from t5x_code.parallel.failures import FailureWatch
from t5x_code.parallel.hosts import is_writer, rows_of_process, start_processes
from t5x_code.parallel.meeting import agree, first_alone, in_every_process
from t5x_code.parallel.mesh import MeshShape, make_mesh
from t5x_code.recipes import inputs as recipe_inputs
from t5x_code.recipes.attention_choice import settle_attention
from t5x_code.recipes.benchmarks import benchmarks_of
from t5x_code.recipes.compilation_cache import compile_anew_for_several_cpus, use_compilation_cache
from t5x_code.recipes.dry_run import describe_mesh, refuse_uneven_batches
from t5x_code.recipes.memory_choice import describe_choice, fit_memory
from t5x_code.recipes.mixture import stores_root
from t5x_code.recipes.recipe import Recipe
from t5x_code.recipes.run_files import (
    PROBLEMS_FILE,
    RECIPE_FILE,
    STORES_FILE,
    RunStores,
    read_run_stores,
    read_trained_groups,
)
from t5x_code.recipes.vocabulary import describe_unused_rows, say_once
from t5x_code.terminal import say, warn
from t5x_code.tokens.tokenizer import TOKENIZER_FILE, Tokenizer
from t5x_code.training.loop import RunData, RunFiles, train


def train_recipe(recipe: Recipe, resolved: str, command: str) -> int:
    """Trains a recipe in its MODEL_DIR, or goes on with what is there.

    Args:
        recipe: the run.
        resolved: its gin text, kept as `config.gin`.
        command: what the user typed, kept as `command.txt`.

    Returns:
        Steps done.

    Raises:
        UserError: bad input of any kind, before the run's folder is written.
    """
    hosts = recipe.hosts
    start_processes(hosts)
    use_compilation_cache(recipe.loop.model_dir)
    run_programs_in_turn()
    compile_anew_for_several_cpus()
    agree("start", start_facts(resolved), hosts.barrier_seconds)
    mesh = make_mesh(recipe.mesh)
    recipe = dataclasses.replace(recipe, model=settle_attention(recipe, mesh))
    refuse_uneven_batches(recipe, mesh)
    settled = in_every_process("the devices' memory", lambda: fit_memory(recipe, mesh), hosts.barrier_seconds)
    in_every_process("the model to start from", lambda: _refuse_initial_model(recipe), hosts.barrier_seconds)
    index, count = rows_of_process(mesh)
    if is_writer():
        say(describe_mesh(settled, mesh))
        say(f"attention: {recipe.model.attention}")
    data = prepare_stores(recipe, resolved)
    if is_writer():
        _say_what_is_missing(recipe, data)
    split = recipe_inputs.vocabulary_split(data)
    if split:  # it adds rows to the vocabulary
        split_recipe = dataclasses.replace(recipe, model=split_config(recipe.model, split))
        settled = in_every_process("memory of all", lambda: fit_memory(split_recipe, mesh), hosts.barrier_seconds)
    choice = describe_choice(settled, MeshShape(**mesh.shape))
    facts = {"attention": recipe.model.attention, "REMAT and MICROBATCH_SIZE": choice}
    agree("memory", facts, hosts.barrier_seconds)
    if is_writer():
        say(f"remat: {choice}")
    description = ModelDescription(
        # How attention and products are computed is the reader's choice: it may have other devices.
        dataclasses.replace(settled.model, attention=AUTO, remat=AUTO, quantization="none"),
        begin_document=not recipe_inputs.pair_layout(data),
        extra=recipe_inputs.description_extra(data),
    )
    groups = in_every_process(
        "problems of before",
        lambda: trained_groups_so_far(recipe, recipe_inputs.trained_groups(data.train)),
        hosts.barrier_seconds,
    )
    batches, evaluations = open_rows(recipe, data, index, count)
    run_data = RunData(
        batches=batches,
        evaluations=evaluations,
        fingerprint=recipe_inputs.fingerprint(data, recipe.data),
        split=split,
        benchmarks=benchmarks_of(recipe.benchmarks, description, mesh, data, groups, recipe.loop.model_dir),
    )
    agree("the data", run_data.fingerprint, hosts.barrier_seconds)
    files = RunFiles(description, data.tokenizer.save, _texts(data, groups, resolved, command))
    with lost_processes(), FailureWatch(), short_of_memory():
        return train(
            settled.loop, settled.model, recipe.optimizer, recipe.loss, mesh, run_data, files, recipe.initialize_from
        )


def open_rows(recipe: Recipe, data: recipe_inputs.Inputs, index: int, count: int) -> tuple[Any, Any]:
    """Training's batches and validation's, as `RunData` has them."""

    def make() -> tuple[Any, Any]:
        rows = recipe_inputs.training_rows(data, recipe.data)
        batches = recipe_inputs.batches_from(rows, recipe.data, index, count)
        return batches, recipe_inputs.evaluations_from(
            data, recipe.data, recipe.eval_batch_size, index, count, absent=rows.empty
        )

    return in_every_process("rows", make, recipe.hosts.open_seconds)


def _refuse_initial_model(recipe: Recipe) -> None:
    """Raises a UserError where there is no model to start from, or another: before stores are made, which may take
    hours. The size of a vocabulary that is split by modality follows from the tokenizer, which comes with them."""
    if recipe.initialize_from is not None and not _may_have_begun(recipe):
        is_split = recipe.data.modality_separation != "none"
        refuse_other_model(recipe.initialize_from, recipe.model, knows_vocabulary=not is_split)
    if recipe.model.lora_rank and recipe.initialize_from is None and not _may_have_begun(recipe) and is_writer():
        warn("TransformerConfig.lora_rank trains adapters alone, beside fresh parameters: set INITIALIZE_FROM")


def _has_begun(recipe: Recipe) -> bool:
    return newest_step(epath.Path(recipe.loop.model_dir) / CHECKPOINTS_FOLDER) is not None


def _may_have_begun(recipe: Recipe) -> bool:
    """Whether there is a checkpoint, or may be a replica of one."""
    return _has_begun(recipe) or recipe.loop.local_replicas is not None


def _say_what_is_missing(recipe: Recipe, data: recipe_inputs.Inputs) -> None:
    """Tells of tasks without validation loss and, before the first step, of vocabulary rows without a token."""
    for task in sorted(data.stores.keys() - {stream.task for stream in data.validation}):
        say(f"{task}: no documents are held out, so that there is no validation loss")
    unused = None if _has_begun(recipe) else describe_unused_rows(recipe, data.tokenizer.vocab_size)
    if unused:
        say(unused)


def trained_groups_so_far(recipe: Recipe, groups: Sequence[int]) -> list[int]:
    """The groups of problems that the model is trained on, with those that it was trained on before: a run may go on
    with other problems, or start from another run's model."""
    earlier = [recipe.initialize_from, recipe.loop.model_dir if _may_have_begun(recipe) else None]
    return sorted({*groups}.union(*(read_trained_groups(folder) for folder in earlier if folder)))


def _texts(data: recipe_inputs.Inputs, groups: list[int], resolved: str, command: str) -> dict[str, str]:
    """The plain files of a run's folder, by name."""
    stores = RunStores(
        folders={task: str(absolute_path(folder)) for task, folder in data.stores.items()},
        shares=recipe_inputs.final_shares(data.train),
    )
    texts = {
        RECIPE_FILE: resolved,
        "command.txt": command + "\n",
        STORES_FILE: json.dumps(dataclasses.asdict(stores), indent=2) + "\n",
    }
    return texts | ({PROBLEMS_FILE: json.dumps(groups) + "\n"} if groups else {})


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Asks for the same command again where another process of the run is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise RunAgain(f"process {jax.process_index()} lost the others: {one_line(error)[:200]}") from error


@contextlib.contextmanager
def short_of_memory() -> Iterator[None]:
    """Says what to do where a device has no memory left: the same command would end the same way."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = one_line(error)[:200]
        raise UserError(
            f"a device has no memory left ({reason}); set MICROBATCH_SIZE lower, REMAT='dots' or 'full', "
            "OptimizerConfig.moment_dtype='bfloat16' or OptimizerConfig.offload=True"
        ) from error


def prepare_stores(recipe: Recipe, resolved: str) -> recipe_inputs.Inputs:
    """Prepares the inputs in process 0 first, which makes missing stores; others find them or make them on their own
    disk.

    Where nothing is to be made, as when a run goes on, none waits as long as that may take.
    """
    hosts = recipe.hosts

    def refuse_tokenizer(tokenizer: Tokenizer) -> None:
        if _has_begun(recipe):
            refuse_other_tokenizer("MODEL_DIR", recipe.loop.model_dir, tokenizer)
        elif recipe.initialize_from is not None:
            refuse_other_tokenizer("INITIALIZE_FROM", recipe.initialize_from, tokenizer)

    def prepare() -> recipe_inputs.Inputs:
        return recipe_inputs.prepare_inputs(recipe.data, recipe.model.vocab_size, refuse_tokenizer)

    if jax.process_count() == 1:
        return prepare()
    found = in_every_process("stores of before", lambda: finds_stores(recipe, resolved), hosts.barrier_seconds)
    found = multihost_utils.process_allgather(np.bool_(found)).all()
    first_seconds = hosts.open_seconds if found else hosts.store_seconds
    others_seconds = hosts.open_seconds if in_bucket(stores_root(recipe.data)) else first_seconds
    return in_every_process("inputs", lambda: first_alone("token stores", prepare, first_seconds), others_seconds)


def finds_stores(recipe: Recipe, resolved: str) -> bool:
    """Whether the very same recipe was trained before, and this process finds all stores that it was trained on where
    it would look for them."""
    kept = epath.Path(recipe.loop.model_dir) / RECIPE_FILE
    try:
        if not kept.exists() or kept.read_text() != resolved:
            return False
        stores = [epath.Path(store) for store in read_run_stores(recipe.loop.model_dir).folders.values()]
        root = absolute_path(stores_root(recipe.data))
        return all(store.is_relative_to(root) and store.exists() for store in stores)
    except (UserError, UnicodeError, TypeError):  # damaged; training writes them anew
        return False


def refuse_other_tokenizer(setting: str, model_dir: epath.PathLike, tokenizer: Tokenizer) -> None:
    """Raises a UserError where a model to go on with has learnt other tokens by the same ids; new ones may follow.

    Args:
        setting: that names the model, for messages.
        model_dir: the model.
        tokenizer: of this run's stores.
    """
    folder = epath.Path(model_dir) / TOKENIZER_FOLDER
    if not (folder / TOKENIZER_FILE).exists():
        say_once(f"{setting}={model_dir} has no tokenizer: nobody knows whether it has learnt this run's tokens")
        return
    ours = tokenizer.vocabulary()
    for text, number in Tokenizer.load(str(folder)).vocabulary().items():
        if ours.get(text) != number:
            here = f"which is {ours[text]} here" if text in ours else "which this run's tokenizer lacks"
            raise UserError(
                f"{setting}={model_dir} has learnt other tokens: its {number} is {text!r}, {here}; set "
                f"TOKENIZER='{folder}' and name a new folder as DATA, whose stores are made with it"
            )


def start_facts(resolved: str) -> dict[str, str]:
    """What the processes of a run must have in common before anything else."""
    return {
        "the code": f"{t5x_code.__version__} {_code_hash()}",
        "jax": jax.__version__,
        "the recipe": resolved,
        "the kind of device": jax.local_devices()[0].device_kind,
        "the number of devices": str(jax.local_device_count()),
    }


def _code_hash() -> str:
    """A hash of this package's source."""
    root = Path(t5x_code.__file__).parent
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()
