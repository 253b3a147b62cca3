"""Parquet files in the layout of The Stack: `parquet:PATTERN?lang=python,c-sharp`, streamed by row group."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.sources.files import SourceFile, find_files
from t5x_code.errors import UserError

LANGUAGE_COLUMN = "lang"
ROWS_PER_BATCH = 1024


def files(source: SourceDeclaration) -> list[SourceFile]:
    """The pattern's files, sorted by name."""
    return find_files(source.path, (".parquet",))


def documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[str]:
    """One document per row whose language is wanted (option `lang`; without it every row).

    Rows of other languages are not counted as skipped: they are not part of the source.
    """
    wanted = {language_key(name) for name in source.option("lang", "").split(",") if name}
    for file in files(source):
        yield from _file_documents(file, text_field, wanted, skipped)


def language_key(name: str) -> str:
    """The Stack names a language `C#` in its column and `c-sharp` in its folders; both give the same key."""
    return name.strip().lower().replace("#", "-sharp").replace(" ", "-")


def _file_documents(file: SourceFile, text_field: str, wanted: set[str], skipped: Counter) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("reading Parquet needs pyarrow; pip install 't5x_code[data]'") from error
    try:
        with file.path.open("rb") as handle:
            table = pyarrow.parquet.ParquetFile(handle)
            columns = [text_field, *([LANGUAGE_COLUMN] if wanted else [])]
            absent = [name for name in columns if name not in table.schema_arrow.names]
            if absent:
                raise UserError(f"{file.path} has no column {absent[0]}; it has {', '.join(table.schema_arrow.names)}")
            for batch in table.iter_batches(ROWS_PER_BATCH, columns=columns):
                languages = batch.column(LANGUAGE_COLUMN) if wanted else None
                yield from _batch_documents(batch.column(text_field), languages, text_field, wanted, skipped)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file.path} cannot be read to its end ({error}); repair or remove it") from error


def _batch_documents(
    texts: Iterable[Any], languages: Iterable[Any] | None, text_field: str, wanted: set[str], skipped: Counter
) -> Iterator[str]:
    """The texts whose languages are wanted; both are pyarrow's scalars, of which a file's writer checks no encoding."""
    for text, language in zip(texts, texts if languages is None else languages, strict=True):
        try:
            if languages is not None and language_key(str(language.as_py() or "")) not in wanted:
                continue
            document = text.as_py()
        except UnicodeDecodeError:
            skipped["not UTF-8"] += 1
            continue
        if isinstance(document, str):
            yield document
        else:
            skipped[f"column {text_field} is not text"] += 1
