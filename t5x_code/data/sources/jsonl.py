"""Lines of JSON objects, plain or compressed: `jsonl:PATTERN`, each object's text field a document."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from etils import epath

from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.sources.files import SourceFile, find_files
from t5x_code.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
READ_BYTES = 1 << 20


def files(source: SourceDeclaration) -> list[SourceFile]:
    """The pattern's files, sorted by name."""
    return find_files(source.path, SUFFIXES)


def documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[str]:
    """One document per line; lines that are not such an object are counted."""
    return (text for (text,) in fields(source, (text_field,), skipped))


def fields(source: SourceDeclaration, names: Sequence[str], skipped: Counter) -> Iterator[tuple[str, ...]]:
    """The texts of some fields of each line; lines that have not all of them are counted."""
    for file in files(source):
        for line in _lines(file.path):
            try:
                record = json.loads(line, parse_int=float)  # int refuses what has thousands of digits
                texts = tuple(record[name] for name in names)
            except UnicodeDecodeError:
                skipped["not UTF-8"] += 1
            except (ValueError, RecursionError):  # the latter of brackets without end
                skipped["not JSON"] += bool(line.strip())
            except (KeyError, TypeError, IndexError):
                skipped[f"no field {' or '.join(names)}"] += 1
            else:
                if all(isinstance(text, str) for text in texts):
                    yield texts
                else:
                    skipped[f"field {' or '.join(names)} is not text"] += 1


def _lines(path: epath.Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as raw:
            if path.name.endswith(".gz"):
                with gzip.open(raw) as lines:
                    yield from lines
            elif path.name.endswith(".zst"):
                yield from _split_lines(_zstd_blocks(raw, path))
            else:
                yield from raw
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read to its end ({error}); repair or remove it") from error


def _zstd_blocks(raw: BinaryIO, path: epath.Path) -> Iterator[bytes]:
    """Decompressed pieces of all frames; zstandard's own reader takes a frame that is cut off for whole."""
    try:
        import zstandard
    except ImportError as error:
        raise UserError(f"{path} is compressed with zstd; pip install zstandard to read it") from error
    frame = None
    while data := raw.read(READ_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from error
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("its last frame is cut off")


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    begun: list[bytes] = []  # of a line that may go on for many blocks
    for block in blocks:
        first, *others = block.split(b"\n")
        begun.append(first)
        if others:
            yield b"".join(begun)
            yield from others[:-1]
            begun = others[-1:]
    if rest := b"".join(begun):
        yield rest
