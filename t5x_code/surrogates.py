"""Halves of surrogate pairs: JSON can spell them and Python's strings hold them, but no file and no tokenizer does."""


def holds_surrogates(text: str) -> bool:
    """Whether a text has half a pair, or a byte of a command line that is not UTF-8, which Python keeps as one."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
