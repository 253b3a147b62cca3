"""Reads a task's tokens: shards of documents in the order of their hash, each document ended by eod.

    <root>/<task>/<split>/manifest.json
    <root>/<task>/<split>/shards/00000/tokens/          zarr3, the smallest unsigned type that holds the vocabulary
    <root>/<task>/<split>/shards/00000/document_ends/   zarr3, int64

and of documents in parts `part_ends`, `part_kinds` and `groups` beside them, as data/document.py says.

Paths may be local, gs:// or s3://. Shape legend: S shards, N tokens, D documents, Q parts.
"""

import contextlib
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorstore as ts
from etils import epath

from t5x_code.buckets import in_bucket, list_bucket, size_of
from t5x_code.data.manifest import Manifest
from t5x_code.data.mapped_tokens import MappedTokens, map_tokens
from t5x_code.errors import UserError
from t5x_code.file_checksum import size_and_crc

SHARDS_FOLDER = "shards"
ALWAYS_VERIFIED_BYTES = 256 << 20
CACHE_BYTES = 64 << 20  # holds a shard's index: random rows come at 40 M tokens/s, without it at 8
IN_MEMORY_BYTES = 64 << 20  # of tokens: a smaller store is read whole
THREADS = 32  # a large store has thousands of files, and a bucket answers in tens of milliseconds
MISSING = re.compile(r'"([^"]*)" is missing')  # what TensorStore says of a file

Span = tuple[int, int, int]  # shard, start, stop


class TokenStore:
    """One split of one task. Make it by `open`; it can be pickled, and read from several threads."""

    def __init__(self, folder: epath.Path, manifest: Manifest):
        self.folder = folder
        self.manifest = manifest
        self.shard_tokens = np.array(manifest.shard_tokens, dtype=np.int64)  # [S]
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
        self._tokens: dict[int, ts.TensorStore | MappedTokens | np.ndarray] = {}
        self._indices: dict[tuple[int, str], np.ndarray] = {}  # by shard and name

    @classmethod
    def open(cls, folder: epath.PathLike, verify: bool = False) -> "TokenStore":
        """Opens a finished store.

        Args:
            folder: `<root>/<task>/<split>`.
            verify: check every byte; stores under 256 MiB always are, of larger ones only the sizes.

        Raises:
            UserError: absent, not finished, or damaged.
        """
        folder = epath.Path(folder)
        manifest = Manifest.read(folder)
        total = sum(size for size, _ in manifest.checksums.values())
        verify = verify or total < ALWAYS_VERIFIED_BYTES
        listed = list_bucket(folder) if in_bucket(folder) and not verify else None
        with ThreadPoolExecutor(THREADS) as pool:
            problems = pool.map(
                lambda entry: _problem_of_file(folder, *entry, verify, listed), manifest.checksums.items()
            )
            problem = next(filter(None, problems), None)
        if problem:
            raise UserError(f"token store {folder} is damaged: {problem}; make it again")
        return cls(folder, manifest)

    @property
    def num_shards(self) -> int:
        """S."""
        return len(self.manifest.shard_tokens)

    def document_ends(self, shard: int) -> np.ndarray:
        """Exclusive ends [D] int64 of a shard's documents, ascending; the last is the shard's number of tokens."""
        return self._index(shard, "document_ends")

    def part_ends(self, shard: int) -> np.ndarray:
        """Exclusive ends [Q] int64 of a shard's parts, ascending."""
        return self._index(shard, "part_ends")

    def part_kinds(self, shard: int) -> np.ndarray:
        """Kind [Q] uint8 of each of a shard's parts."""
        return self._index(shard, "part_kinds")

    def groups(self, shard: int) -> np.ndarray:
        """Hash [D] int64 of each document's group, 0 without one."""
        return self._index(shard, "groups")

    def read(self, shard: int, start: int, stop: int) -> np.ndarray:
        """Tokens [stop - start] int32 of one shard."""
        (tokens_N,) = self.read_spans([(shard, start, stop)])
        return tokens_N

    def read_spans(self, spans: Sequence[Span]) -> list[np.ndarray]:
        """Tokens [stop - start] int32 of each span; those of a bucket are fetched all at once."""
        with self._missing_is_damage():
            found = [self._tokens_of(shard)[start:stop] for shard, start, stop in spans]
            fetched = [part.read() if isinstance(part, ts.TensorStore) else part for part in found]
            return [(part.result() if isinstance(part, ts.Future) else part).astype(np.int32) for part in fetched]

    def document_lengths(self) -> np.ndarray:
        """Tokens of every document, eod included, int64, in store order over all shards."""
        with ThreadPoolExecutor(THREADS) as pool:
            ends = list(pool.map(self.document_ends, range(self.num_shards)))
        lengths = [np.diff(ends_D, prepend=0) for ends_D in ends]
        return np.concatenate([np.zeros(0, np.int64), *lengths])

    def _tokens_of(self, shard: int) -> ts.TensorStore | MappedTokens | np.ndarray:
        """Documents are short, and a read by TensorStore takes as long as copying thousands of tokens: a small store is
        kept in memory, a large one on a local disk is mapped."""
        if shard not in self._tokens:
            array = self._open_array(shard, "tokens")
            is_small = self.manifest.num_tokens * array.dtype.numpy_dtype.itemsize <= IN_MEMORY_BYTES
            mapped = None if is_small else map_tokens(shard_folder(self.folder, shard) / "tokens")
            self._tokens[shard] = array.read().result() if is_small else mapped or array
        return self._tokens[shard]

    def _index(self, shard: int, name: str) -> np.ndarray:
        if (shard, name) not in self._indices:
            with self._missing_is_damage():
                array = self._open_array(shard, name).read().result()
            array.flags.writeable = False
            self._indices[shard, name] = array
        return self._indices[shard, name]

    def _open_array(self, shard: int, name: str) -> ts.TensorStore:
        path = shard_folder(self.folder, shard) / name
        # A file that is gone would read as zeros. An array of zeros had none when earlier versions wrote the store.
        is_written = f"{SHARDS_FOLDER}/{path.parent.name}/{name}/c/0" in self.manifest.checksums
        spec = {"driver": "zarr3", "kvstore": kvstore_url(path), "fill_missing_data_reads": not is_written}
        # A finished store never changes, so that what was read once need not be looked at again.
        unchanging = {"recheck_cached_data": "open", "recheck_cached_metadata": "open"}
        try:
            return ts.open(spec | unchanging, open=True, context=self._context).result()
        except ValueError as error:
            raise UserError(f"token store {self.folder} is damaged: {path} does not open; make it again") from error

    @contextlib.contextmanager
    def _missing_is_damage(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:  # TensorStore's only kind
            missing = MISSING.search(str(error))
            if missing is None:
                raise
            raise UserError(f"token store {self.folder} is damaged: {missing[1]} is missing; make it again") from error

    def __reduce__(self):
        return TokenStore, (self.folder, self.manifest)


def _problem_of_file(
    store: epath.Path, name: str, expected: tuple[int, int], verify: bool, listed: Mapping[str, int] | None
) -> str | None:
    """What is wrong with a file of a store, in a few words; `listed` has the sizes of those in a bucket."""
    file = store / name
    try:
        if verify:
            sound = size_and_crc(file) == expected
        else:
            sound = (size_of(file) if listed is None else listed[name]) == expected[0]
    except (FileNotFoundError, KeyError):
        return f"{name} is missing"
    return None if sound else f"{name} is not what was written"


def shard_folder(store: epath.Path, shard: int) -> epath.Path:
    """Where a shard's arrays lie."""
    return store / SHARDS_FOLDER / f"{shard:05d}"


def kvstore_url(path: epath.Path) -> str:
    """TensorStore's address of a path."""
    text = str(path)
    return f"{text}/" if in_bucket(path) else f"file://{urllib.parse.quote(str(path.resolve()))}/"
