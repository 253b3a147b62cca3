"""What a token store says about itself: counts, fingerprints, versions, checksums, written last as manifest.json."""

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from t5x_code.data.sources.files import walk
from t5x_code.errors import UserError
from t5x_code.file_checksum import size_and_crc

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1
THREADS = 8  # one stream from a bucket brings a tenth of what a machine can take


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything that is known about one split of one task's tokens."""

    format_version: int
    task: str
    split: str  # train or validation
    num_documents: int
    num_tokens: int  # each document's eod included
    num_bytes: int  # UTF-8 bytes of the documents' text
    shard_documents: tuple[int, ...]
    shard_tokens: tuple[int, ...]
    dtype: str  # of the tokens on disk
    vocab_size: int
    eod: int
    modality: int  # of every document: 0 text, 1 code
    duplicates: int  # documents dropped because the split holds the same text already
    skipped: dict[str, int]  # documents of the source, both splits together, that were not readable, by reason
    decontaminated: dict[str, int]  # documents dropped because they hold a benchmark's text, by benchmark
    benchmarks_not_searched: dict[str, str]  # by name: why
    fingerprint: str  # of the four below and the format version
    source_fingerprint: str
    preprocessors_fingerprint: str
    split_fingerprint: str  # of the store seed and the validation fraction
    tokenizer_fingerprint: str
    declaration: dict[str, Any]  # the TaskDeclaration
    versions: dict[str, str]  # of the libraries that wrote the store
    checksums: dict[str, tuple[int, int]]  # file, relative to the store: (bytes, crc32)
    part_kinds: tuple[str, ...] = ()  # names of the parts' kinds by number; empty: documents without parts

    def write(self, folder: epath.PathLike) -> None:
        """Writes manifest.json; call it last, for a store without one is not read."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"
        (epath.Path(folder) / MANIFEST_FILE).write_text(text)

    @classmethod
    def read(cls, folder: epath.PathLike) -> "Manifest":
        """Reads a store's manifest.

        Raises:
            UserError: no store there, one that was not finished, or a manifest of another format.
        """
        folder = epath.Path(folder)
        file = folder / MANIFEST_FILE
        if not folder.exists():
            raise UserError(f"token store {folder} does not exist; make it with python launch/cache.py")
        if not file.is_file():
            raise UserError(f"token store {folder} is not finished: it has no {MANIFEST_FILE}; make it again")
        try:
            fields = json.loads(file.read_text())
            version = fields["format_version"]
            if version != FORMAT_VERSION:
                raise UserError(
                    f"token store {folder} has format {version}, this version reads {FORMAT_VERSION}; make it again"
                )
            for name in ("shard_documents", "shard_tokens", "part_kinds"):
                fields[name] = tuple(fields.get(name, ()))
            fields["checksums"] = {name: tuple(check) for name, check in fields["checksums"].items()}
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{file} is damaged ({error}); make the token store again") from error


def fingerprint_of(value: Any) -> str:
    """Hex digest of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def checksum_folder(folder: epath.Path) -> dict[str, tuple[int, int]]:
    """`size_and_crc` of every file below a folder, by its path relative to the folder, sorted."""
    files = sorted(walk(folder))
    with ThreadPoolExecutor(THREADS) as pool:
        sums = pool.map(size_and_crc, files)
        return {file.relative_to(folder).as_posix(): total for file, total in zip(files, sums, strict=True)}
