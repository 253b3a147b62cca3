"""Finding the files of a source, locally or in a bucket, and reading text without guessing."""

import dataclasses
import itertools
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from etils import epath

from t5x_code.buckets import in_bucket
from t5x_code.errors import UserError

WILDCARDS = "*?["
THREADS = 32
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file, and its name that does not change when the corpus is moved."""

    name: str
    path: epath.Path


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
    if rest:
        paths = _glob(head, rest)
    elif head.is_dir():
        paths = [path for path in walk(head) if path.name.endswith(tuple(suffixes))]
    else:
        paths = [head] if head.exists() else []
        head = head.parent
    if not paths:
        raise UserError(f"no file at {pattern} (looked for {', '.join(suffixes)}); check the path")
    files = (SourceFile(path.relative_to(head).as_posix(), path) for path in paths)
    return sorted(files, key=lambda file: file.name)


def walk(folder: epath.Path, above: tuple[str, ...] = ()) -> Iterator[epath.Path]:
    """Every file below a folder, but for hidden files and folders, and links to nothing or to a folder `above`."""
    is_local = not in_bucket(folder)
    here = os.path.realpath(folder) if is_local else str(folder)
    if here in above:
        return
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path, is_folder in zip(paths, of_each(lambda path: path.is_dir(), paths), strict=True):
        if is_folder:
            yield from walk(path, (*above, here))
        elif not is_local or path.is_file():
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
    """Files below `head`. Only local folders are searched through all depths (`**`): a bucket's could be millions."""
    if "**" not in rest:
        paths = list(head.glob(rest)) if head.exists() else []
        return list(itertools.compress(paths, of_each(lambda path: path.is_file(), paths)))
    if in_bucket(head):
        raise UserError(f"{head}/{rest}: ** is not searched for in a bucket; write one * per level")
    return [epath.Path(path) for path in pathlib.Path(head).glob(rest) if path.is_file()]
