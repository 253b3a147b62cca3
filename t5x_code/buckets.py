"""Buckets: which paths lie in one, such as gs://bucket/run, how it is asked for much at once, and what keeps a machine
from it, for now or for good."""

import os
import re
import traceback
from typing import TYPE_CHECKING

from etils import epath

from t5x_code.errors import RunAgain, UserError, one_line

if TYPE_CHECKING:
    import fsspec

SCHEMES = {"gcsfs": "gs", "s3fs": "s3"}  # by the package that goes to a bucket
# Names of classes, as the packages that they come from may be absent: Python's own, and those of aiohttp (gcsfs),
# botocore (s3fs) and google.auth.
NETWORK_ERRORS = {
    "ConnectionError",
    "TimeoutError",
    "gaierror",
    "ClientConnectionError",
    "HTTPClientError",
    "TransportError",
}
# What TensorStore says when it has tried for a quarter of an hour; an error of another kind it does not try again.
TRIED_AGAIN = re.compile(r"All \d+ retry attempts failed: (.*)")


def in_bucket(path: epath.PathLike) -> bool:
    """Whether a path is an address in a bucket, where nothing is appended to, renamed as a folder or locked."""
    return "://" in str(path)


def size_of(path: epath.Path) -> int:
    """Bytes of a file.

    A path's own `stat` looks up the name of a local file's owner, who may be unknown in a container or on NFS.
    """
    return path.stat().length if in_bucket(path) else os.stat(path).st_size


def list_bucket(folder: epath.Path, pattern: str = "") -> dict[str, int]:
    """Bytes of every file below a folder in a bucket, or of those of a pattern, by its name relative to the folder.

    A bucket lists a thousand names with their sizes in the time that it takes to ask for one.
    """
    file_system, root = _file_system(folder)
    root = root.rstrip("/")
    try:
        found = file_system.glob(f"{root}/{pattern}", detail=True) if pattern else file_system.find(root, detail=True)
    except FileNotFoundError:
        return {}
    # A folder that was made by hand is an empty object whose name ends with a slash.
    files = {name: info for name, info in found.items() if info["type"] == "file" and not name.endswith("/")}
    return {name.removeprefix(f"{root}/"): info["size"] for name, info in files.items()}


def read_span(path: epath.Path, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file; in a bucket by a single request."""
    if in_bucket(path):
        file_system, name = _file_system(path)
        return file_system.cat_file(name, start=start, end=stop)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _file_system(path: epath.Path) -> tuple["fsspec.AbstractFileSystem", str]:
    """What lists a bucket, which epath does without sizes, and how a path is called there."""
    import fsspec  # nothing that a local disk needs, and it takes a while

    return fsspec.core.url_to_fs(str(path))


def why_no_bucket(error: BaseException) -> str | None:
    """What keeps this machine from a bucket for good, in a line; None where an error is of another kind."""
    text = one_line(error)
    for package, scheme in SCHEMES.items():
        if isinstance(error, ImportError) and package in text:
            return f"{scheme}:// needs {package}: pip install '{'t5x_code[gcp]' if scheme == 'gs' else package}'"
    if getattr(error, "code", None) in (400, 401, 403) or text.startswith("Forbidden: "):
        return (
            f"the bucket refuses ({text[:200]}); is its name right, and are you logged in (gcloud auth "
            "application-default login) with access to it?"
        )
    return None


def why_unreachable(error: BaseException | None) -> str | None:
    """What keeps this machine from a bucket for now, such as a network that is down, in a line; None where an error is
    of another kind. Errors of files that were made into a UserError are looked through."""
    while error is not None:
        frames = traceback.walk_tb(error.__traceback__)
        packages = {frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in frames}
        if NETWORK_ERRORS.intersection(kind.__name__ for kind in type(error).__mro__):
            for package in packages.intersection(SCHEMES):
                reason = one_line(error)[:200] or type(error).__name__
                return f"{SCHEMES[package]}:// cannot be reached: {reason}"
        tried = TRIED_AGAIN.search(one_line(error))
        if tried and not isinstance(error, UserError):  # which would cite it
            return f"the bucket cannot be reached: {tried[1][:200]}"
        error = error.__cause__
    return None


def explain(error: BaseException) -> tuple[bool, str] | None:
    """Whether what is wrong may be right when the same command is run again, and a line that says what it is.

    Errors of a bucket are as good as a UserError or a RunAgain. None where no person at the command can mend it.
    """
    away = str(error) if isinstance(error, RunAgain) else why_unreachable(error)
    if away is not None:
        return True, away
    reason = str(error) if isinstance(error, UserError) else why_no_bucket(error)
    return None if reason is None else (False, reason)
