"""Edits of a document's text before it is hashed and tokenized, each with a version that is part of the fingerprint."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from t5x_code.errors import UserError


def normalize_newlines(text: str) -> str:
    r"""Windows' and old Macs' line ends become `\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


# A change of behaviour is a new version; an old name never means something new.
PREPROCESSORS: Mapping[str, Callable[[str], str]] = MappingProxyType({"normalize_newlines@1": normalize_newlines})


def find_preprocessors(names: Sequence[str]) -> list[Callable[[str], str]]:
    """The functions of `name@version`s, or a UserError that lists what exists."""
    unknown = [name for name in names if name not in PREPROCESSORS]
    if unknown:
        raise UserError(f"unknown preprocessor {unknown[0]}; there are {', '.join(PREPROCESSORS)}")
    return [PREPROCESSORS[name] for name in names]
