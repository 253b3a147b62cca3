"""Texts of documents that lie in a token store, or as files in a folder."""

from collections.abc import Iterator
from pathlib import Path

from etils import epath

from t5x_code.data.caching.build import TOKENIZER_FOLDER
from t5x_code.data.manifest import MANIFEST_FILE
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.objectives.ntp_plus import CODE_KINDS
from t5x_code.objectives.text_to_code import PAIR_KINDS
from t5x_code.source_code.linearisation import restore_lines
from t5x_code.tokens.special_tokens import MARKS
from t5x_code.tokens.tokenizer import Tokenizer


def document_texts(store: TokenStore, tokenizer: Tokenizer) -> Iterator[str]:
    """Texts of the store's documents in its order, their closing eod left out.

    Of codes with their variants, only the code itself: it stands first. Of docstring-code pairs, the code behind the
    docstring, with its lines.
    """
    kinds = store.manifest.part_kinds
    for shard in range(store.num_shards):
        start = 0
        for end in store.document_ends(shard):
            first, stop = start, int(end) - 1
            if kinds == CODE_KINDS:
                stop = _end_of_part(store, shard, start)
            elif kinds == PAIR_KINDS:
                first = _end_of_part(store, shard, start)
            ids = store.read(shard, first, stop)
            yield restore_lines(tokenizer.decode_marked(ids), *MARKS) if kinds == PAIR_KINDS else tokenizer.decode(ids)
            start = int(end)


def _end_of_part(store: TokenStore, shard: int, start: int) -> int:
    """Where the first part of the document that begins at `start` ends: there too, if that part is empty."""
    part_ends_Q = store.part_ends(shard)
    return int(part_ends_Q[part_ends_Q.searchsorted(start, "left")])


def held_out_texts(path: str) -> Iterator[str]:
    """Texts under a path: a split of a token store, read by the store's own tokenizer, or a folder of Python files.

    Raises:
        UserError: neither is there, or a file cannot be read.
    """
    folder = epath.Path(path)
    if (folder / MANIFEST_FILE).exists():
        tokenizer = Tokenizer.load(str(folder.parent / TOKENIZER_FOLDER))
        yield from document_texts(TokenStore.open(folder), tokenizer)
        return
    files = sorted(file for file in Path(path).rglob("*.py") if file.is_file())
    if not files:
        raise UserError(f"{path} is neither a split of a token store nor a folder with Python files")
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from error
        yield text
