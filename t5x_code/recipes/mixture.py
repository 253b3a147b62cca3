"""The mixture that a recipe is trained on, the embedded one without data of its own, and where its stores lie."""

import os
import platform
from pathlib import Path

from etils import epath

from t5x_code.data.builtin_tasks import declaration_for
from t5x_code.data.declarations import MixtureDeclaration, Rate, TaskDeclaration, scaled
from t5x_code.errors import UserError
from t5x_code.recipes.recipe import DataConfig
from t5x_code.terminal import say

EMBEDDED_MIXTURE = "code_nl"


def resolve_mixture(config: DataConfig) -> MixtureDeclaration:
    """The mixture that is trained on: the recipe's, or the embedded one where the recipe's data is not given."""
    mixture = config.mixture
    if not isinstance(mixture, str):
        parts = [(declaration_for(name, config.stores), rate) for name, rate in mixture]
        return MixtureDeclaration(
            "of the recipe", tuple(pair for part, rate in parts for pair in _share_out(part, rate))
        )
    if not falls_back(config):
        return declaration_for(mixture, config.stores)
    say(f"no DATA given for the mixture {mixture}: using the embedded {EMBEDDED_MIXTURE}")
    return declaration_for(EMBEDDED_MIXTURE)


def _share_out(part: MixtureDeclaration, rate: Rate) -> list[tuple[TaskDeclaration, Rate]]:
    """A rate by the tasks of what it is given to: those of a mixture share it by their own rates, as SeqIO's do."""
    total = sum(own for _, own in part.rates)  # constants: schedules are of recipes alone
    return [(task, scaled(rate, own / total)) for task, own in part.rates]


def refuse_unknown_tasks(config: DataConfig) -> None:
    """Raises a UserError where the mixture names what there is not. Stores, which may lie in a bucket, are looked at
    only for a name that nothing else knows."""
    for name in [config.mixture] if isinstance(config.mixture, str) else [name for name, _ in config.mixture]:
        try:
            declaration_for(name)
        except UserError:
            declaration_for(name, config.stores)


def falls_back(config: DataConfig) -> bool:
    """Whether the recipe names a built-in mixture whose files lie elsewhere, and does not say where."""
    if config.stores is not None or not isinstance(config.mixture, str) or ":" in config.mixture:
        return False
    return not all(is_embedded(task.source.kind) for task in declaration_for(config.mixture).tasks)


def is_embedded(kind: str) -> bool:
    """Whether every machine has a source of this kind."""
    return kind in ("python_stdlib", "python_docs", "python_pairs", "python_functions")


def stores_root(config: DataConfig) -> epath.Path:
    """Where the recipe's stores lie: in DATA, else in one folder per Python version, whose library is the corpus."""
    if config.stores is not None:
        return epath.Path(config.stores)
    return epath.Path(cache_folder()) / f"python-{platform.python_version()}"


def cache_folder() -> Path:
    """T5X_CODE_CACHE, or t5x_code in the user's cache folder."""
    folder = os.environ.get("T5X_CODE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "t5x_code"
    return Path(folder).expanduser()
