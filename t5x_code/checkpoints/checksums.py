"""Checksums of a checkpoint's files: what finds a flipped bit, a cut file, a file that is gone.

Orbax restores a flipped bit without a word and judges a step complete by its folder's name; so every step carries its
own list of files, sizes and CRC-32, written before the step's folder gets its final name and verified when read.
"""

import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

from etils import epath

from t5x_code.buckets import in_bucket, list_bucket
from t5x_code.file_checksum import size_and_crc

CHECKSUMS_FILE = "checksums.json"
# Orbax completes these two after the list is written. They hold times and hints, and are not read when restoring.
NOT_LISTED = (CHECKSUMS_FILE, "_CHECKPOINT_METADATA", "commit_success.txt")
TEMPORARY = ".orbax-checkpoint-tmp"  # after the name of a step or an item that Orbax has not finalized
THREADS = 8  # CRC-32 runs outside the interpreter's lock


def write_checksums(folder: epath.PathLike, known: Mapping[str, tuple[int, int]] = MappingProxyType({})) -> None:
    """Lists every file under `folder` with its size and CRC-32, in `folder/checksums.json`.

    Args:
        folder: of a step.
        known: size and CRC-32 of files that need not be read for them, by their path in the folder.
    """
    folder = epath.Path(folder)
    names = _files_of(folder)
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: known.get(name) or size_and_crc(folder / name), names)
        entries = dict(zip(names, found, strict=True))
    (folder / CHECKSUMS_FILE).write_text(json.dumps(entries, indent=0))


def sums_of_process(folder: epath.PathLike, process: int) -> dict[str, tuple[int, int]]:
    """Size and CRC-32 of the parts of arrays that one of several processes has written, by their path in the step.

    Args:
        folder: of a step that all have yet to finalize, which moves these files and does not change them.
        process: its index.
    """
    found = {}
    for item in epath.Path(folder).iterdir():
        parts = item / f"ocdbt.process_{process}" / "d"
        for path in parts.iterdir() if parts.is_dir() else ():
            found[f"{item.name.removesuffix(TEMPORARY)}/{parts.parent.name}/d/{path.name}"] = path
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(found, pool.map(size_and_crc, found.values()), strict=True))


def find_damage(
    folder: epath.PathLike, items: Collection[str] | None = None, share: tuple[int, int] = (0, 1)
) -> str | None:
    """What is wrong with the files under `folder`, in a few words; None when they are as they were written.

    Args:
        folder: with a list of checksums.
        items: the folders in it that matter; None: all, and the files beside them.
        share: `(i, n)` for the i-th of n parts of the files.
    """
    folder = epath.Path(folder)
    try:
        listed = json.loads((folder / CHECKSUMS_FILE).read_text())
        expected = {str(name): (int(size), int(crc)) for name, (size, crc) in listed.items()}
    except FileNotFoundError:
        return "it has no list of checksums" if any(folder.iterdir()) else "the folder is empty"
    except OSError as error:
        return f"its {CHECKSUMS_FILE} cannot be read ({error.strerror or error})"
    except (ValueError, TypeError, AttributeError):
        return f"its {CHECKSUMS_FILE} is damaged"
    wanted = [name for name in sorted(expected) if items is None or name.split("/")[0] in items]
    names = wanted[share[0] :: share[1]]
    with ThreadPoolExecutor(THREADS) as pool:
        problems = pool.map(lambda name: _problem_of_file(folder / name, name, *expected[name]), names)
    return next((problem for problem in problems if problem), None)


def _problem_of_file(path: epath.Path, name: str, size: int, crc: int) -> str | None:
    try:
        found_size, found_crc = size_and_crc(path)
    except FileNotFoundError:
        return f"file {name} is missing"
    except OSError as error:
        return f"file {name} cannot be read ({error.strerror})"
    if found_size != size:
        return f"file {name} has {found_size} bytes instead of {size}"
    return None if found_crc == crc else f"file {name} is damaged (its checksum differs)"


def _files_of(folder: epath.Path) -> list[str]:
    """Relative paths of all files but `NOT_LISTED` of the top level."""
    if in_bucket(folder):  # each process of a run leaves folders, and to look into one takes requests
        return sorted(list_bucket(folder).keys() - set(NOT_LISTED))
    found, waiting = [], [""]
    while waiting:
        parent = waiting.pop()
        for path in (folder / parent).iterdir():
            name = f"{parent}/{path.name}" if parent else path.name
            if path.is_dir():
                waiting.append(name)
            elif name not in NOT_LISTED:
                found.append(name)
    return sorted(found)
