"""A file that grows by lines: appended to on a disk, written anew in a bucket, where nothing can be appended."""

import time
from collections.abc import Iterable

from etils import epath

# Of the time that goes into writing a file anew, at most: a run of weeks would do it for gigabytes.
REWRITE_SHARE = 0.01


class LinesFile:
    """The lines of a file; where it is written anew, the newest may wait until `flush`."""

    def __init__(self, path: epath.Path, lines: Iterable[str], appends: bool, share: float = REWRITE_SHARE):
        """Writes the file whole, under a temporary name first.

        Args:
            path: of the file.
            lines: that it begins with.
            appends: whether lines can be appended to it.
            share: of the time that goes into writing it anew, at most, where they cannot.

        Raises:
            OSError: it cannot be written.
        """
        self._path, self._appends, self._share = path, appends, share
        self._lines = list(lines)
        self._write_anew()

    def append(self, line: str) -> None:
        """Adds a line.

        Raises:
            OSError: the file cannot be written.
        """
        if self._appends:
            with self._path.open("a") as handle:
                handle.write(line + "\n")
            return
        self._lines.append(line)
        self._is_behind = True
        if time.monotonic() >= self._not_before:
            self.flush()

    def flush(self) -> None:
        """Writes the lines that wait.

        Raises:
            OSError: the file cannot be written.
        """
        if self._is_behind:
            self._write_anew()

    def _write_anew(self) -> None:
        began = time.monotonic()
        temporary = self._path.with_name(self._path.name + ".tmp")
        temporary.write_text("".join(line + "\n" for line in self._lines))
        temporary.replace(self._path)
        ended = time.monotonic()
        self._is_behind, self._not_before = False, ended + (ended - began) / self._share
