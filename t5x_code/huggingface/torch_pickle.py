"""Reads `pytorch_model.bin` without torch and without running what is in it.

Such a file is a zip archive: `*/data.pkl`, a pickle of the dict of tensors, and one uncompressed entry per storage. The
pickle may name torch's two tensor builders, its storage types and OrderedDict; any other name is refused before it is
looked up. Tensors are views of the file's memory map, read when they are used.
"""

import collections
import dataclasses
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from t5x_code.errors import UserError

DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
LOCAL_HEADER_BYTES = 30  # of a zip entry, before its name and extra field


@dataclasses.dataclass(frozen=True)
class _StorageType:
    """What a pickle's `torch.FloatStorage` becomes; it cannot be called."""

    dtype: Any


def read_torch_file(path: Path, whole: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a file by name, as views of its bytes.

    Raises:
        UserError: the file is damaged, in torch's older format, or its pickle holds more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            prefix = name.removesuffix("data.pkl")
            if archive.NameToInfo.get(prefix + "byteorder") and archive.read(prefix + "byteorder") != b"little":
                raise UserError(f"{path} was written on a big-endian machine; save it anew as safetensors")
            storages = _find_storages(path, whole, archive, prefix + "data/")
            found = _TensorUnpickler(archive.read(name), storages, path).load()
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError) as error:  # a bit may say: encrypted
        raise UserError(
            f"{path} is damaged, or in torch's format before 1.6 ({error}); download it again, or as safetensors"
        ) from error
    except (pickle.UnpicklingError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} holds no plain dict of tensors ({error}); save it as safetensors") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, np.ndarray) for tensor in found.values()):
        raise UserError(f"{path} holds no plain dict of tensors; save the model's state_dict, as safetensors best")
    return dict(found)


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles tensors and dicts of them, nothing else."""

    def __init__(self, text: bytes, storages: dict[str, np.ndarray], path: Path):
        super().__init__(io.BytesIO(text))
        self._storages, self._path = storages, path

    def find_class(self, module: str, name: str) -> Any:
        """The few names that a state_dict needs; called by `load` for every name in the pickle."""
        if module == "torch" and name in DTYPES:
            return _StorageType(DTYPES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        raise UserError(
            f"{self._path} holds the Python object {module}.{name}, not tensors alone, and is not opened; "
            "get the model as safetensors"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        """A storage, by what torch wrote of it: ("storage", its type, its key, where it lay, its length)."""
        kind, storage_type, key, _, length = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"unknown object {kind}")
        return self._storages[key][: length * np.dtype(storage_type.dtype).itemsize].view(storage_type.dtype)


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """A tensor as a view of its storage, refused where it would reach out of it."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    is_empty = any(length == 0 for length in size)
    if offset < 0 or min(stride, default=0) < 0 or (not is_empty and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor that reaches out of its storage")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _rebuild_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


def _find_storages(path: Path, whole: np.ndarray, archive: zipfile.ZipFile, prefix: str) -> dict[str, np.ndarray]:
    """The archive's storages by key, as bytes of the file."""
    storages = {}
    for entry in archive.infolist():
        if not entry.filename.startswith(prefix):
            continue
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{path} is compressed, as torch never writes it; save it as safetensors")
        name_and_extra = whole[entry.header_offset + 26 : entry.header_offset + LOCAL_HEADER_BYTES].view("<u2")
        start = entry.header_offset + LOCAL_HEADER_BYTES + int(name_and_extra.sum())
        if start + entry.file_size > len(whole):
            raise zipfile.BadZipFile("a storage is cut")
        storages[entry.filename.removeprefix(prefix)] = whole[start : start + entry.file_size]
    return storages
