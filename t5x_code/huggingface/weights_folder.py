"""The tensors of a Hugging Face folder, whatever files they lie in; read when they are used."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from t5x_code.errors import UserError
from t5x_code.huggingface.safetensors_file import read_safetensors_file
from t5x_code.huggingface.torch_pickle import read_torch_file
from t5x_code.mapped_files import give_back, map_file

# Of a file's path and of its bytes: its tensors, as views of the bytes.
Reader = Callable[[Path, np.ndarray], dict[str, np.ndarray]]

# Kinds of files in the order in which they are looked for, each as one file or, failing that, as shards with an index:
# transformers' order, so that what an older save left in the folder is passed over here as there.
KINDS: tuple[tuple[str, Reader], ...] = (
    ("model.safetensors", read_safetensors_file),
    ("pytorch_model.bin", read_torch_file),
)


class WeightsFolder(Mapping[str, np.ndarray]):
    """The tensors of a folder by name: views of memory-mapped files."""

    def __init__(self, folder: str | Path):
        """Finds and maps the files.

        Args:
            folder: holds `model.safetensors` or `pytorch_model.bin`, or shards of one and its `.index.json`.

        Raises:
            UserError: no such folder or file, a shard that is missing, damaged or of another checkpoint.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the folder of a Hugging Face checkpoint")
        self._tensors: dict[str, np.ndarray] = {}
        self._maps: list[np.ndarray] = []  # bytes of each file
        files, read = _find_files(folder)
        for file in files:
            self._maps.append(_map(folder / file))
            tensors = read(folder / file, self._maps[-1])
            for name in tensors.keys() & self._tensors.keys():
                if not np.array_equal(tensors[name], self._tensors[name]):
                    raise UserError(
                        f"{folder} has two tensors {name}, which differ, one of them in {file}; are files of two "
                        "checkpoints mixed? Download it again"
                    )
            self._tensors |= tensors

    def release(self) -> None:
        """Gives back the memory of what has been read so far; it is read again where it is used again."""
        for mapped in self._maps:
            give_back(mapped)

    def __getitem__(self, name: str) -> np.ndarray:
        """A tensor; KeyError if there is none of that name."""
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of the files."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._tensors)


def _map(path: Path) -> np.ndarray:
    with path.open("rb") as handle:
        try:
            return map_file(handle.fileno())
        except ValueError as error:
            raise UserError(f"{path} is damaged (it is empty); download it again") from error


def _find_files(folder: Path) -> tuple[list[str], Reader]:
    for name, read in KINDS:
        if (folder / name).is_file():
            return [name], read
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _files_of_index(index), read
    names = " nor ".join(name for name, _ in KINDS)
    raise UserError(f"{folder} has neither {names}, nor an index of one; is the download complete?")


def _files_of_index(index: Path) -> list[str]:
    try:
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is damaged; download it again") from error
    for name in files:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise UserError(f"{index.parent} has no {name}, which its {index.name} names; download it again")
    return files
