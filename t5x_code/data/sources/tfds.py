"""A TensorFlow Datasets builder: `tfds:NAME?split=train&data_dir=FOLDER`. Imports TensorFlow when read."""

from collections import Counter
from collections.abc import Iterator

from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.quiet_tensorflow import quiet_tensorflow
from t5x_code.errors import UserError, one_line


def state(source: SourceDeclaration) -> list[str]:
    """What the documents depend on: the builder's full name, which holds its version, and the split."""
    return [_builder(source).info.full_name, source.option("split", "train")]


def documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[str]:
    """One document per example: its text field."""
    builder = _builder(source)
    features = list(builder.info.features)
    if text_field not in features:
        raise UserError(f"tfds:{source.path} has no field {text_field}; it has {', '.join(features)}")
    split, known = source.option("split", "train"), ", ".join(builder.info.splits)
    try:
        dataset = builder.as_dataset(split=split, shuffle_files=False)
    except (ValueError, AssertionError) as error:
        if known and isinstance(error, ValueError):
            raise UserError(f"tfds:{source.path}: no split={split} ({error}); it has {known}") from error
        raise UserError(f"tfds:{source.path} is not ready to read ({error}); download and prepare it first") from error
    for example in dataset.as_numpy_iterator():
        text = example[text_field]
        if not isinstance(text, bytes):
            raise UserError(f"tfds:{source.path}: field {text_field} is not text; it has {', '.join(features)}")
        try:
            yield text.decode("utf-8")
        except UnicodeDecodeError:
            skipped["not UTF-8"] += 1


def _builder(source: SourceDeclaration):
    try:
        with quiet_tensorflow():
            import tensorflow  # noqa: F401  (the next would import it later)
            import tensorflow_datasets
    except ImportError as error:
        raise UserError("reading tfds: needs TensorFlow Datasets; pip install 't5x_code[data]'") from error
    try:
        return tensorflow_datasets.builder(source.path, data_dir=source.option("data_dir", "") or None)
    except Exception as error:  # unknown names and unreadable folders raise many kinds
        raise UserError(f"tfds:{source.path} does not load ({one_line(error)[:200]})") from error
