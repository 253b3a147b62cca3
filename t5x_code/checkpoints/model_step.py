"""Which step of a model directory is read, and whether it is whole."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from t5x_code.checkpoints.checksums import find_damage
from t5x_code.checkpoints.manager import (
    EMA_PARAMS,
    MODEL_ITEMS,
    PARAMS,
    has_item,
    list_steps,
    newest_good_step,
    newest_step,
)
from t5x_code.errors import UserError

CHECKPOINTS_FOLDER = "checkpoints"

Damage = Callable[[], str | None]  # waits until a step is verified; None: it is whole


def find_params(folder: epath.PathLike, step: int | None = None) -> tuple[int, str]:
    """The step and the item of it that `read_model_directory` takes for a model's parameters.

    Raises:
        UserError: there is no such step, it is damaged, or none is whole.
    """
    checkpoints = epath.Path(folder) / CHECKPOINTS_FOLDER
    if step is None:
        step = newest_good_step(checkpoints, MODEL_ITEMS)
    elif damage := find_damage(checkpoints / str(_listed_step(checkpoints, step)), MODEL_ITEMS):
        raise UserError(f"checkpoint {checkpoints / str(step)} is damaged: {damage}; choose another --step")
    return _params_of(checkpoints, step)


def with_params(folder: epath.PathLike, step: int | None, use: Callable[[epath.Path, int, str, Damage], None]) -> None:
    """Calls a function with what `find_params` finds, while the step is verified beside it.

    Where it turns out to be damaged, `use` is called once more, if an older step serves.

    Args:
        folder: a model directory.
        step: a checkpoint; None: the newest that is whole.
        use: of the checkpoints' folder, a step and its item, which may be damaged, and of what tells whether it is:
            what it does must not last, and is begun anew by the next call.

    Raises:
        UserError: as `find_params`.
    """
    checkpoints = epath.Path(folder) / CHECKPOINTS_FOLDER
    likely, item = _params_of(checkpoints, _listed_step(checkpoints, step))
    with ThreadPoolExecutor(1) as pool:
        damage = pool.submit(find_damage, checkpoints / str(likely), MODEL_ITEMS)
        try:
            use(checkpoints, likely, item, damage.result)
        except Exception:
            if not damage.result():
                raise
    if damage.result():
        use(checkpoints, *find_params(folder, step), lambda: None)


def _listed_step(checkpoints: epath.Path, step: int | None) -> int | None:
    """A step that has a folder: the newest, unless another is asked for.

    Raises:
        UserError: that one has none.
    """
    if step is None:
        return newest_step(checkpoints)
    steps = list_steps(checkpoints)
    if step not in steps:
        raise UserError(f"{checkpoints} has no step {step}; it has {steps}")
    return step


def _params_of(checkpoints: epath.Path, step: int | None) -> tuple[int, str]:
    if step is None:
        raise UserError(f"{checkpoints} has no checkpoint yet")
    return step, EMA_PARAMS if has_item(checkpoints, step, EMA_PARAMS) else PARAMS
