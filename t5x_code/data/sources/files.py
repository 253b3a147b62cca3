"""Finding the files of a source, locally or in a bucket, and reading text without guessing."""

import dataclasses
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from etils import epath

from t5x_code.buckets import in_bucket, list_bucket
from t5x_code.errors import UserError

WILDCARDS = "*?["
THREADS = 32
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file, and its name that does not change when the corpus is moved."""

    name: str
    path: epath.Path
    num_bytes: int | None = None  # where a listing told it


def find_files(pattern: str, suffixes: Sequence[str]) -> list[SourceFile]:
    """Files of a pattern, sorted by name.

    Args:
        pattern: a file, a pattern with `*`, `?`, `[..]` or `**`, or a folder, which stands for all files below it with
            one of the suffixes. Hidden files and folders are left out of folders.
        suffixes: such as `.jsonl`.

    Raises:
        UserError: nothing there, or a folder that cannot be read.
    """
    try:
        return _find_files(pattern, suffixes)
    except OSError as error:
        raise UserError(f"{error.filename or pattern} cannot be read ({error.strerror or error})") from error
    except (ValueError, NotImplementedError) as error:  # pathlib's, of ** beside other characters
        raise UserError(f"{pattern} is no pattern for files ({error})") from error


def _find_files(pattern: str, suffixes: Sequence[str]) -> list[SourceFile]:
    folder, rest = _split_at_wildcard(pattern)
    head = epath.Path(folder)
    if in_bucket(head) and (rest or head.is_dir()):
        files = _listed_files(head, rest, tuple(suffixes))
    else:
        if rest:
            paths = _glob(head, rest)
        elif head.is_dir():
            paths = [path for path in walk(head) if path.name.endswith(tuple(suffixes))]
        else:
            paths = [head] if head.exists() else []
            head = head.parent
        files = [SourceFile(path.relative_to(head).as_posix(), path) for path in paths]
    if not files:
        raise UserError(f"no file at {pattern} (looked for {', '.join(suffixes)}); check the path")
    return sorted(files, key=lambda file: file.name)


def walk(folder: epath.Path, above: tuple[str, ...] = ()) -> Iterator[epath.Path]:
    """Every file below a folder, but for hidden files and folders, and links to nothing or to a folder `above`."""
    if in_bucket(folder):
        yield from (folder / name for name in list_bucket(folder) if not _is_hidden(name))
        return
    here = os.path.realpath(folder)
    if here in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from walk(path, (*above, here))
        elif path.is_file():
            yield path


def of_each(function: Callable[[epath.Path], Result], paths: Sequence[epath.Path]) -> list[Result]:
    """The function of each path; of many in a bucket at once, which answers in tens of milliseconds."""
    if not paths or not in_bucket(paths[0]):
        return list(map(function, paths))
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, paths))


def read_text(path: epath.Path, skipped: Counter) -> Iterator[str]:
    """The text of one file as at most one document; a file that is not UTF-8 or not readable is counted instead.

    Raises:
        OSError: a bucket cannot be reached, which is nothing that its file lacks.
    """
    try:
        yield path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        skipped["not UTF-8"] += 1
    except OSError as error:
        if is_of_bucket(error, path):
            raise
        skipped["not readable"] += 1


def is_of_bucket(error: OSError, path: epath.Path) -> bool:
    """Whether an error of reading a file is its bucket's, such as a network that is down, and not the file's own."""
    return in_bucket(path) and not isinstance(error, FileNotFoundError)


def _split_at_wildcard(pattern: str) -> tuple[str, str]:
    """The folder before the first part with a wildcard, and what follows, empty where there is none."""
    parts = pattern.split("/")
    first = next((i for i, part in enumerate(parts) if any(sign in part for sign in WILDCARDS)), len(parts))
    head = "/".join(parts[:first])
    return head or ("/" if pattern.startswith("/") else "."), "/".join(parts[first:])


def _glob(head: epath.Path, rest: str) -> list[epath.Path]:
    """Files below a local `head`."""
    if "**" not in rest:
        return [path for path in head.glob(rest) if path.is_file()] if head.exists() else []
    return [epath.Path(path) for path in pathlib.Path(head).glob(rest) if path.is_file()]


def _listed_files(head: epath.Path, rest: str, suffixes: tuple[str, ...]) -> list[SourceFile]:
    """Files below `head` in a bucket: those of the pattern `rest`, or where that is empty those with a suffix. Only
    local folders are searched through all depths (`**`): a bucket's could be millions."""
    if "**" in rest:
        raise UserError(f"{head}/{rest}: ** is not searched for in a bucket; write one * per level")
    sizes = list_bucket(head, rest)
    names = sizes if rest else [name for name in sizes if name.endswith(suffixes) and not _is_hidden(name)]
    return [SourceFile(name, head / name, sizes[name]) for name in names]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
