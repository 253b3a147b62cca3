"""Files of results: checked to be writable before the work begins, and written whole or not at all."""

import math
import os
from typing import Any

from etils import epath

from t5x_code.errors import UserError


def check_writable(path: str) -> None:
    """Checks that `path` can be written; leaves an existing file as it is.

    Raises:
        UserError: it cannot, or is a folder or a device such as /dev/null, which a file would replace.
    """
    target = epath.Path(path)
    if target.is_dir():
        raise UserError(f"output file {path} is a folder; give the name of a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"output file {path} is a device or pipe; give the name of a file")
    probe = _partial(target)
    try:
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(f"output file {path} cannot be written: {error.strerror or error}") from error


def write_whole(path: epath.PathLike, text: str) -> None:
    """Writes a file under a temporary name that is renamed when whole.

    Raises:
        UserError: it cannot be written; what was there is there still.
    """
    target = epath.Path(path)
    partial = _partial(target)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"output file {path} cannot be written: {error.strerror or error}") from error


def jsonable(value: Any) -> Any:
    """The value with texts for numbers that JSON has not: nan, inf and -inf."""
    if isinstance(value, dict):
        return {name: jsonable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def _partial(target: epath.Path) -> epath.Path:
    """A name of this process' own: another one that is given the same output begins by trying whether it can write."""
    return target.with_name(f".{target.name}.{os.getpid()}")
