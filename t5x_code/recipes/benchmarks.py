"""Evaluations inside a training run: the same ones as those of the command line, every so many steps."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from t5x_code.checkpoints.model_directory import ModelDescription
from t5x_code.data.document_texts import document_texts
from t5x_code.errors import UserError
from t5x_code.evaluation.in_training import BenchmarksConfig
from t5x_code.evaluation.problems import read_humaneval, read_infilling, read_mbpp, read_multilingual
from t5x_code.evaluation.registry import WRITES_PROGRAMS, evaluate
from t5x_code.evaluation.request import Request, Sampled
from t5x_code.evaluation.sample_problems import check_room
from t5x_code.evaluation.sandbox.isolation import choose_isolation
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.recipes.inputs import Inputs
from t5x_code.recipes.text_model import text_model

READERS = {
    "humaneval": read_humaneval,
    "incremental": read_humaneval,
    "infilling": read_infilling,
    "mbpp": read_mbpp,
    "multilingual": read_multilingual,
}
BENCHMARKS_FOLDER = "benchmarks"  # of the run's, for samples


def benchmarks_of(
    config: BenchmarksConfig,
    description: ModelDescription,
    mesh: Mesh,
    inputs: Inputs,
    trained_groups: Sequence[int],
    model_dir: str,
) -> Callable[[Any, int], dict[str, float]] | None:
    """A function (params, step) -> metrics named `benchmark/name/metric`; None where there is nothing to do.

    Prompts are laid out as `description` says, which is what `launch/evaluate.py` reads from the run's folder;
    `trained_groups` are the numbers of the groups of problems that the model is or was trained on.

    Raises:
        UserError: running programs is not allowed, there are several processes, answers leave no room for prompts, or a
            benchmark's problems cannot be read.
    """
    if not config.names:
        return None
    if jax.process_count() > 1:
        raise UserError("benchmarks inside a run need a single process; evaluate its checkpoints by launch/evaluate.py")
    if config.max_new_tokens is not None:
        check_room(config.max_new_tokens, description.config.max_length)
    execution = Execution(allowed=config.allow_code_execution)
    if set(config.names) & set(WRITES_PROGRAMS):
        choose_isolation(execution)
    _refuse_missing_data(config)
    held_out = None
    if inputs.validation:
        held_out = functools.partial(document_texts, inputs.validation[0].reader, inputs.tokenizer)
    elif "completion" in config.names:
        raise UserError("the benchmark completion asks for held-out lines, but no task holds documents out")

    def run(params: Any, step: int) -> dict[str, float]:
        on = mesh if mesh.size > 1 else None
        model = text_model(description, params, inputs.tokenizer, name=f"step {step}", mesh=on)
        metrics = {}
        for name in config.names:
            folder = epath.Path(model_dir) / BENCHMARKS_FOLDER / str(step)
            folder.mkdir(parents=True, exist_ok=True)
            request = Request(
                name=name,
                model=model,
                trained_groups=frozenset(trained_groups),
                data=config.data,
                keep_samples=str(folder / f"{name}.samples.jsonl"),
                limit=config.limit,
                sampled=Sampled(max_new_tokens=config.max_new_tokens, batch_size=config.batch_size),
                execution=execution,
                held_out=held_out,
            )
            results = evaluate(request)["metrics"]
            metrics |= {f"benchmark/{name}/{metric}": float(value) for metric, value in results.items()}
        return metrics

    return run


def _refuse_missing_data(config: BenchmarksConfig) -> None:
    """Raises a UserError where a benchmark's problems cannot be read: at the start, not steps after it."""
    for name in config.names:
        try:
            if name in READERS:
                READERS[name](config.data)
        except UserError as error:
            raise UserError(f"BENCHMARKS: {name}: {error} (a run's --data is BenchmarksConfig.data)") from error
