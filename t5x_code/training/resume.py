"""Where a run starts: at its newest whole checkpoint or replica, else from another model's parameters or fresh ones."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from t5x_code.checkpoints.manager import (
    EMA_PARAMS,
    PARAMS,
    TRAINING,
    Checkpoint,
    has_item,
    newest_good_step,
    read_item,
    read_metadata,
    set_aside_newer,
)
from t5x_code.checkpoints.model_directory import (
    is_split_here,
    load_initial_params,
    read_description,
)
from t5x_code.checkpoints.model_step import CHECKPOINTS_FOLDER
from t5x_code.checkpoints.replica import newest_replica, read_replica, replica_folder
from t5x_code.errors import UserError
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params
from t5x_code.models.lora import join, split_trained
from t5x_code.models.modality import VocabularySplit
from t5x_code.parallel.hosts import is_writer
from t5x_code.training.metrics_writer import has_line
from t5x_code.training.state import TrainState, abstract_state, init_state, shardings_of, state_of_params

# What says how a model is computed, not what it is: a run may resume with others.
COMPUTE_FIELDS = (
    "dtype",
    "quantization",
    "remat",
    "scan_layers",
    "attention",
    "loss_chunk",
    "initializer_range",
    "max_length",
)

# What a model may be given on purpose when another run starts from it, such as for longer rows.
ADAPTED_FIELDS = ("norm_epsilon", "rope_base", "rope_scaling", "window_pattern")


@dataclasses.dataclass(frozen=True)
class Start:
    """The state to go on from."""

    state: TrainState
    step: int
    rows_consumed: int
    origin: str  # for the log
    is_saved: bool = True  # its checkpoint lies, whole, in the run's folder; or it is a beginning
    unwritten: dict[str, float] | None = None  # numbers of its step, if a request to stop cut its evaluation short


def find_start(
    model_dir: epath.PathLike,
    model: TransformerConfig,
    optimizer: optax.GradientTransformation,
    with_ema: bool,
    mesh: Mesh,
    seed: int,
    data_fingerprint: dict[str, str],
    *,
    accept_changed_data: bool = False,
    initialize_from: str | None = None,
    split: VocabularySplit | None = None,
    offload: bool = False,
    local_replicas: epath.PathLike | None = None,
) -> Start:
    """Restores or makes the state. A checkpoint in `model_dir` wins over `initialize_from`.

    A replica in `local_replicas` wins over a checkpoint that is not newer, is damaged or gone.

    Where `split` is given and `initialize_from` is a model that it has not split yet, its rows are copied for code.

    Raises:
        UserError: the checkpoint is of another model, optimizer or data; names what changed. Or none is whole.
    """
    abstract = abstract_state(model, optimizer, with_ema, mesh, offload)
    refuse_changes = functools.partial(
        _refuse_changes, model=model, data=data_fingerprint, accept_changed_data=accept_changed_data
    )
    resumed = _resume(epath.Path(model_dir), local_replicas, abstract, with_ema, refuse_changes)
    if resumed is not None:
        return _without_what_is_written(resumed, model_dir)
    if initialize_from is not None:
        params = load_initial_params(initialize_from, model, mesh, split)

        def make(params: Any, key: jax.Array) -> TrainState:
            adapters, _ = split_trained(init_params(model, key))  # fresh ones, if the model there has none
            whole = join(params, adapters) if model.lora_rank else params
            return state_of_params(whole, optimizer, with_ema)

        state = jax.jit(make, out_shardings=shardings_of(abstract))(params, jax.random.key(seed))
        return Start(state, 0, 0, _describe_origin(initialize_from, model, split))
    make = functools.partial(init_state, model, optimizer, with_ema)
    state = jax.jit(make, out_shardings=shardings_of(abstract))(jax.random.key(seed))
    return Start(state, 0, 0, "started from fresh parameters")


def _without_what_is_written(start: Start, model_dir: epath.PathLike) -> Start:
    """A checkpoint says that its evaluation is to be made up for, also when a later start has done so."""
    if start.unwritten is None:
        return start
    is_written = np.bool_(is_writer() and has_line(model_dir, start.step))
    if jax.process_count() > 1:
        is_written = multihost_utils.broadcast_one_to_all(is_written)
    return dataclasses.replace(start, unwritten=None) if is_written else start


def _describe_origin(initialize_from: str, model: TransformerConfig, split: VocabularySplit | None) -> str:
    """Whose parameters a run starts from, and what was made of them."""
    origin = f"started from the parameters of {initialize_from}"
    description = read_description(initialize_from)
    there = description.config
    before, now = ({name: getattr(config, name) for name in ADAPTED_FIELDS} for config in (there, model))
    if before != now:
        origin += f", whose recipe differs: {_describe_changes(before, now)}"
    old_size = there.vocab_size
    copies_rows = is_split_here(description, split)
    new_size = split.base_vocab_size if copies_rows else model.vocab_size
    if old_size != new_size:
        origin += f"; {new_size - old_size} new tokens start as the mean of its {old_size}"
    if copies_rows:
        origin += f"; {len(split.sources)} rows for code are copies"
    return origin


def _resume(
    model_dir: epath.Path,
    local_replicas: epath.PathLike | None,
    abstract: TrainState,
    with_ema: bool,
    refuse_changes: Callable[[epath.Path, dict[str, Any]], None],
) -> Start | None:
    """From the run's last whole checkpoint or its last replica: the newer one, the replica where they are of a step."""
    folder, wanted = model_dir / CHECKPOINTS_FOLDER, checkpoint_of(abstract, {})
    replicas = replica_folder(local_replicas, model_dir) if local_replicas is not None else None
    replica = newest_replica(replicas, wanted) if replicas is not None else None
    try:
        step = newest_good_step(folder)
    except UserError:  # none is whole
        if replica is None:
            raise
        step = None
    if replicas is not None and replica is not None and (step is None or replica >= step):
        saved = read_replica(replicas, replica, wanted)
        refuse_changes(replicas / str(replica), saved.metadata)
        set_aside_newer(folder, -1 if step is None else step)
        state = abstract.replace(params=saved.params, ema_params=saved.ema_params, **saved.training)
        origin = f"resumed at step {replica} of the replica in {replicas.parent}"
        rows_consumed, unwritten = saved.metadata["rows_consumed"], saved.metadata.get("unwritten")
        return Start(state, replica, rows_consumed, origin, replica == step, unwritten)
    if step is None:
        return None
    metadata = read_metadata(folder, step)
    refuse_changes(folder / str(step), metadata)
    set_aside_newer(folder, step)
    state = _restore(folder, step, abstract, with_ema)
    origin = f"resumed at step {step} of {model_dir}"
    return Start(state, step, metadata["rows_consumed"], origin, unwritten=metadata.get("unwritten"))


def checkpoint_of(state: TrainState, metadata: dict[str, Any]) -> Checkpoint:
    """What is saved of a state."""
    return Checkpoint(state.params, state.ema_params, _training_part(state), metadata)


def _training_part(state: TrainState) -> dict[str, Any]:
    names = ("opt_state", "step", "skipped", "skipped_in_a_row")
    return {name: getattr(state, name) for name in names}


def _restore(folder: epath.Path, step: int, abstract: TrainState, with_ema: bool) -> TrainState:
    params = read_item(folder, step, PARAMS, abstract.params)
    try:
        training = read_item(folder, step, TRAINING, _training_part(abstract))
    except (ValueError, KeyError) as error:
        raise UserError(
            f"checkpoint {folder}/{step} was made with another optimizer; use its OptimizerConfig, or start a new "
            "MODEL_DIR with INITIALIZE_FROM"
        ) from error
    ema_params = None
    if with_ema:
        item = EMA_PARAMS if has_item(folder, step, EMA_PARAMS) else PARAMS
        ema_params = read_item(folder, step, item, abstract.params)
    return abstract.replace(params=params, ema_params=ema_params, **training)


def _refuse_changes(
    where: epath.Path,
    metadata: dict[str, Any],
    model: TransformerConfig,
    data: dict[str, str],
    accept_changed_data: bool,
) -> None:
    """Raises a UserError unless a run of that model and data may go on from the checkpoint there."""
    if "rows_consumed" not in metadata:
        raise UserError(
            f"checkpoint {where} is an imported model's, not a run's; set INITIALIZE_FROM to that model and MODEL_DIR "
            "to a new folder"
        )
    free = set(COMPUTE_FIELDS)
    if model.position_encoding == "learned" or model.top_query_layer:
        free.remove("max_length")  # it has a parameter of that size
    now = {name: value for name, value in model_facts(model).items() if name not in free}
    before = {name: metadata["model"].get(name) for name in now}
    changed = _describe_changes(before, now)
    if changed:
        raise UserError(f"checkpoint {where} is of another model: {changed}; use its recipe or another MODEL_DIR")
    changed = _describe_changes(metadata["data"], data)
    if changed and not accept_changed_data:
        raise UserError(
            f"checkpoint {where} was trained on other data: {changed}; set ACCEPT_CHANGED_DATA=True to go on with the "
            "new data, or use another MODEL_DIR"
        )


def model_facts(model: TransformerConfig) -> dict[str, Any]:
    """The model's config as plain JSON."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(model).items()}


def _describe_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(f"{name} {before.get(name, 'absent')} -> {now.get(name, 'absent')}" for name in names)
