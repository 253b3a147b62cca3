"""One run at a time in a folder: two would write over each other's metrics and clear each other's checkpoints."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO, Self

from etils import epath

from t5x_code.buckets import in_bucket
from t5x_code.errors import RunAgain

LOCK_FILE = ".lock"


class RunLock:
    """Holds a local run's folder while its `with` block runs; the system lets it go when the process ends, however.

    Buckets have no locks, and some shared file systems have none either: nothing is held there.
    """

    def __init__(self, model_dir: epath.PathLike):
        self._folder = None if in_bucket(model_dir) else Path(model_dir)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """As `acquire`."""
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def acquire(self, makes_folder: bool = False) -> None:
        """Takes the lock, if it is not held here and the folder is there, or is to be made.

        Raises:
            RunAgain: another process holds it; on a shared disk that of a host that was lost may, for a minute or two.
        """
        if self._file is not None or self._folder is None or not (makes_folder or self._folder.is_dir()):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / LOCK_FILE).open("ab+", buffering=0)
        except OSError:  # read-only, full or no folder: writing what matters says so
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = file
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode() or "another process"
            file.close()
            raise RunAgain(
                f"{holder} trains in {self._folder} already; set MODEL_DIR to another folder, or stop it"
            ) from None
        except OSError:  # no locks there, or no room for a name: unbuffered, so that closing does not try again
            return
