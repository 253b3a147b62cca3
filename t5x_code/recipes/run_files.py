"""What a run's folder says of the run, in files that it renews whenever it is started."""

import dataclasses
import json
from typing import Any

from etils import epath

from t5x_code.data.declarations import VALIDATION
from t5x_code.data.manifest import Manifest
from t5x_code.errors import UserError

RECIPE_FILE = "config.gin"
STORES_FILE = "stores.json"
PROBLEMS_FILE = "problems.json"  # numbers of the groups of problems that were trained on


@dataclasses.dataclass(frozen=True)
class RunStores:
    """What a run is trained on."""

    folders: dict[str, str]  # token store by task
    shares: dict[str, float]  # of the rows, by task/objective; at the end of a rate schedule

    def held_out(self) -> str:
        """The validation split of the first store that holds documents out.

        Raises:
            UserError: none does.
        """
        splits = [f"{folder}/{VALIDATION}" for folder in self.folders.values()]
        found = next((split for split in splits if Manifest.read(epath.Path(split)).num_tokens), None)
        if found is None:
            raise UserError(f"the run's stores hold no documents out ({', '.join(self.folders)}); give --data")
        return found


def read_run_stores(model_dir: epath.PathLike) -> RunStores:
    """What a run was trained on.

    Raises:
        UserError: the folder holds no run, or what it says is damaged.
    """
    path = epath.Path(model_dir) / STORES_FILE
    if not path.exists():
        raise UserError(f"{model_dir} holds no training run: it has no {STORES_FILE}")
    return RunStores(**read_json(path))


def read_trained_groups(model_dir: epath.PathLike) -> list[int]:
    """Numbers of the groups of problems that a model was trained on, as its run says; of a model from elsewhere none.

    Raises:
        UserError: what the run says is damaged.
    """
    path = epath.Path(model_dir) / PROBLEMS_FILE
    return read_json(path) if path.exists() else []


def read_json(path: epath.Path) -> Any:
    """One of the files that a run renews whenever it is started.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        again = f"delete it and run what {path.parent}/command.txt says once more, which writes it anew"
        raise UserError(f"{path} is damaged: {error}; {again}") from error
