"""The special-token contract: the few ids that objectives and inference need, whatever the tokenizer."""

import dataclasses

EOD_TEXT = "<|endoftext|>"
SEP_TEXT = "<sep>"
EOM_TEXT = "<eom>"


def mask_text(k: int) -> str:
    """Text of the k-th mask sentinel, k counted from 1 as CodeGen2 does."""
    return f"<mask_{k}>"


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the control tokens. They never come out of encoding ordinary text."""

    eod: int  # ends every document, leads every document's first token as its beginning-of-text
    sep: int  # between a corrupted document and its spans
    eom: int  # ends each infilled span
    masks: tuple[int, ...]  # masks[k - 1] is <mask_k>
