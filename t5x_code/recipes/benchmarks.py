"""Evaluations inside a training run: the same ones as those of the command line, every so many steps."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from t5x_code.data.declarations import VALIDATION
from t5x_code.data.document_texts import document_texts
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.evaluation.in_training import BenchmarksConfig
from t5x_code.evaluation.registry import evaluate
from t5x_code.evaluation.request import Request, Sampled
from t5x_code.evaluation.sandbox.isolation import choose_isolation
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.inference.infilling import TextModel
from t5x_code.models.config import TransformerConfig
from t5x_code.recipes.inputs import Inputs

BENCHMARKS_FOLDER = "benchmarks"  # of the run's, for samples


def benchmarks_of(
    config: BenchmarksConfig, model: TransformerConfig, mesh: Mesh, inputs: Inputs, model_dir: str
) -> Callable[[Any, int], dict[str, float]] | None:
    """A function (params, step) -> metrics named `benchmark/name/metric`; None where there is nothing to do.

    Raises:
        UserError: running programs is not allowed, or there are several processes.
    """
    if not config.names:
        return None
    if jax.process_count() > 1:
        raise UserError("benchmarks inside a run need a single process; evaluate its checkpoints by launch/evaluate.py")
    execution = Execution(allowed=config.allow_code_execution)
    if set(config.names) - {"completion", "logic_equivalence"}:
        choose_isolation(execution)
    first = next(iter(inputs.stores.values()))
    held_out = functools.partial(document_texts, TokenStore.open(first / VALIDATION), inputs.tokenizer)

    def run(params: Any, step: int) -> dict[str, float]:
        name_of_model = f"{model_dir}, step {step}"
        on = mesh if mesh.size > 1 else None
        text_model = TextModel(model, params, inputs.tokenizer, begin_document=True, name=name_of_model, mesh=on)
        metrics = {}
        for name in config.names:
            folder = epath.Path(model_dir) / BENCHMARKS_FOLDER / str(step)
            folder.mkdir(parents=True, exist_ok=True)
            request = Request(
                name=name,
                model=text_model,
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
