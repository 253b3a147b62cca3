"""Tensors of a Hugging Face folder: read one at a time, written in shards of bounded size, with or without an index."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from t5x_code.errors import UserError

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 4 << 30


class SafetensorsFolder(Mapping[str, np.ndarray]):
    """The tensors of a folder by name. A tensor is read when it is asked for, so that a model never lies here twice."""

    def __init__(self, folder: str | Path):
        """Finds the files.

        Args:
            folder: holds `model.safetensors`, or shards and `model.safetensors.index.json`.

        Raises:
            UserError: no such folder or file, a shard that is missing or damaged.
        """
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the folder of a Hugging Face checkpoint")
        self._file_of = self._read_index() if (self._folder / INDEX_FILE).is_file() else self._list_single_file()

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads a tensor; KeyError if there is none of that name."""
        with _open(self._folder / self._file_of[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of the files."""
        return iter(self._file_of)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._file_of)

    def _read_index(self) -> dict[str, str]:
        try:
            file_of = json.loads((self._folder / INDEX_FILE).read_text())["weight_map"]
        except (ValueError, KeyError) as error:
            raise UserError(f"{self._folder / INDEX_FILE} is damaged; download it again") from error
        for name in sorted(set(file_of.values())):
            if not (self._folder / name).is_file():
                raise UserError(f"{self._folder} has no {name}, which its {INDEX_FILE} names; download it again")
        return file_of

    def _list_single_file(self) -> dict[str, str]:
        path = self._folder / SINGLE_FILE
        if not path.is_file():
            hint = "save the model with transformers' save_pretrained, which writes safetensors"
            raise UserError(f"{self._folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; {hint}")
        with _open(path) as file:
            return dict.fromkeys(file.keys(), SINGLE_FILE)


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from error


def write_safetensors(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes tensors into an existing folder as transformers reads them.

    Args:
        folder: where to.
        tensors: names and arrays, taken one at a time; at most a shard's worth is held.
        max_shard_bytes: a shard ends before it would exceed this; one shard alone gets no index.
    """
    shards: list[list[str]] = []
    total = held = 0
    shard: dict[str, np.ndarray] = {}

    def finish() -> None:
        save_file(shard, folder / _shard_name(len(shards)), metadata={"format": "pt"})
        shards.append(list(shard))

    for name, array in tensors:
        if shard and held + array.nbytes > max_shard_bytes:
            finish()
            shard, held = {}, 0
        shard[name] = np.ascontiguousarray(array)
        held += array.nbytes
        total += array.nbytes
    finish()
    if len(shards) == 1:
        (folder / _shard_name(0)).rename(folder / SINGLE_FILE)
        return
    file_of = {}
    for number, names in enumerate(shards):
        final_name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / _shard_name(number)).rename(folder / final_name)
        file_of.update(dict.fromkeys(names, final_name))
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2))


def _shard_name(number: int) -> str:
    """Name of a shard while the number of shards is not known."""
    return f"shard-{number}.safetensors"
