"""samples.jsonl, OpenAI's format: one line {"task_id", "completion"} per sample, added as they are made.

Beside it lies what they were made with, so that a killed run goes on and another's samples are not mistaken for it:
those of other settings are refused, those of other weights of the same name are set aside.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from etils import epath

from t5x_code.buckets import in_bucket, size_of
from t5x_code.errors import UserError
from t5x_code.evaluation.gzipped_text import read_text
from t5x_code.lines_file import LinesFile
from t5x_code.output_file import write_whole
from t5x_code.terminal import warn

WEIGHTS = "weights"  # in what samples were made with: tells the model's parameters from others
PROBLEMS = "problems"  # likewise: a hash of what was asked
REWRITE_SHARE = 0.1  # of the time that goes into writing samples in a bucket, at most
TRIES = 10  # to lock a file that others rename or remove
Samples = dict[str, list[str]]  # completions by task id, in the order in which they were drawn


def read_samples(path: str, known: Iterable[str]) -> Samples:
    """Samples that were made elsewhere; the file may be gzipped.

    Raises:
        UserError: it cannot be read, or a line is not a sample of a known problem.
    """
    samples: Samples = {}
    known = frozenset(known)  # files hold millions of lines, of thousands of problems
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        sample = _parse(line)
        if sample is None:
            raise UserError(f'{path} line {number} is not {{"task_id": text, "completion": text}}')
        if sample["task_id"] not in known:
            raise UserError(f"{path} line {number} answers {sample['task_id']}, which is none of the problems")
        samples.setdefault(sample["task_id"], []).append(sample["completion"])
    if not samples:
        raise UserError(f"samples file {path} has no lines")
    return samples


class SamplesFile:
    """Samples that this run makes: what is there already, and a way to add to it; a context manager.

    One process at a time adds to a local file: two would double its samples, and cut each other's lines off.
    """

    def __init__(self, path: str, made_with: Mapping[str, Any], flag: str = "--output"):
        """Opens it, or starts it.

        Args:
            path: the file; one in a bucket, where nothing is appended to, is written anew now and then, and at the end.
            made_with: what determines the samples, plain JSON.
            flag: that names the results, beside which this file lies; for messages.

        Raises:
            UserError: the file there holds samples that were made otherwise, or nobody knows how, or cannot be written,
                or another process adds to it.
        """
        self._path = epath.Path(path)
        self._described = self._path.with_name(f"{self._path.name}.made_with.json")
        self._advice = f"choose another {flag} or remove the file"
        self._in_bucket = in_bucket(path)
        self.samples: Samples = {}
        self._file: IO[bytes] | None = None
        self._rewritten: LinesFile | None = None  # in a bucket
        try:
            self._open(json.loads(json.dumps(made_with)))
        except OSError as error:
            self.__exit__()
            raise self._unwritable(error) from error
        except UserError:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None = None, error: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._rewritten is not None:
            try:
                self._rewritten.flush()
            except OSError as failure:
                if error is None:
                    raise self._unwritable(failure) from failure

    def add(self, samples: Sequence[tuple[str, str]]) -> None:
        """Appends lines (task id, completion), and has them on the disk when it returns, in a bucket at the end.

        Raises:
            UserError: they cannot be written; what was there is there still.
        """
        lines = [json.dumps({"task_id": task_id, "completion": text}) for task_id, text in samples]
        try:
            if self._rewritten is not None:
                for line in lines:
                    self._rewritten.append(line)
            else:
                view = memoryview("".join(f"{line}\n" for line in lines).encode())
                while view:
                    view = view[self._file.write(view) :]
                os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        for task_id, text in samples:
            self.samples.setdefault(task_id, []).append(text)

    def complete(self, answers: Mapping[str, Sequence[str]]) -> None:
        """Adds of all completions of some tasks those that are not there yet."""
        held = {task_id: len(self.samples.get(task_id, [])) for task_id in answers}
        self.add([(task_id, text) for task_id, texts in answers.items() for text in texts[held[task_id] :]])

    def remove(self) -> None:
        """Removes it, with what it says of itself, once the results hold all of it."""
        self._rewritten = None
        if self._file is not None:
            self._file.truncate(0)  # an empty file needs no description
        for path in (self._described, self._path):  # as in `_set_aside`
            path.unlink(missing_ok=True)

    def _open(self, made_with: Mapping[str, Any]) -> None:
        """Takes the file before looking at what it says: that of one being written is not ours to replace."""
        self._file = None if self._in_bucket else self._hold()
        self._compare(made_with)
        data = self._read()
        if self._file is not None:
            self._file.truncate(len(data))  # a line that a killed run left unfinished
        else:
            lines = data.decode(errors="replace").split("\n")[:-1]
            self._rewritten = LinesFile(self._path, lines, appends=False, share=REWRITE_SHARE)

    def _hold(self) -> IO[bytes]:
        """The file, locked until it is closed; the system lets it go when the process ends, however."""
        for _ in range(TRIES):
            # Unbuffered, so that closing does not try to write again.
            file = Path(self._path).open("ab", buffering=0)  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                break
            except OSError:  # some shared file systems have no locks
                return file
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                    return file
            file.close()  # it was removed or set aside between the two calls
        file.close()
        raise UserError(f"another process adds to {self._path}; wait for it, or {self._advice}")

    def _read(self) -> bytes:
        """Takes in the whole lines; their bytes."""
        if not self._path.exists():
            return b""
        data = self._path.read_bytes()
        kept = 0
        for line in data.splitlines(keepends=True):
            sample = _parse(line.decode(errors="replace")) if line.endswith(b"\n") else None
            if sample is None:
                break
            self.samples.setdefault(sample["task_id"], []).append(sample["completion"])
            kept += len(line)
        return data[:kept]

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"samples file {self._path} cannot be written: {error.strerror or error}")

    def _compare(self, made_with: Mapping[str, Any]) -> None:
        described, advice = self._described, self._advice
        if self._path.exists() and size_of(self._path):
            if not described.exists():
                raise UserError(f"{self._path} has no {described.name} beside it, which says what made it; {advice}")
            before = _parse_object(described.read_text())
            if before is None:
                raise UserError(f"{described}, which says what made {self._path}, is damaged; {advice}")
            differing = [n for n in sorted(before.keys() | made_with.keys()) if before.get(n) != made_with.get(n)]
            for name in differing:
                if name != WEIGHTS:
                    was, now = before.get(name), made_with.get(name)
                    change = f"{name} {was!r}, now it is {now!r}"
                    if name == PROBLEMS:  # known by a hash, which tells nobody anything
                        change = "other problems: --data, --variant or --limit differ"
                    raise UserError(f"{self._path} was made with {change}; {advice}")
            if not differing:
                return
            self._set_aside(before.get(WEIGHTS, "unknown"))
        write_whole(described, json.dumps(made_with, indent=2) + "\n")

    def _set_aside(self, weights: str) -> None:
        """Renames the samples of a model that had this one's name: a run that is trained again goes on all the same."""
        for path in (self._described, self._path):  # the locked one last: from then on both are another process'
            path.replace(path.with_name(f"{weights}.{path.name}"))
        if self._file is not None:
            with self._file:
                self._file = self._hold()
        where = self._path.with_name(f"{weights}.{self._path.name}")
        warn(f"{self._path} was made with other weights; it is now {where}")


def _parse(line: str) -> dict[str, str] | None:
    sample = _parse_object(line)
    is_sample = sample is not None and all(isinstance(sample.get(k), str) for k in ("task_id", "completion"))
    return sample if is_sample else None


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
