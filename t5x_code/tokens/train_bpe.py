"""A byte-level BPE trained on a corpus: the vocabulary of the embedded recipes, made on the user's machine."""

from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from t5x_code.errors import UserError
from t5x_code.tokens.special_tokens import EOD_TEXT, EOM_TEXT, SEP_TEXT, mask_text
from t5x_code.tokens.tokenizer import Tokenizer

NUM_BYTES = 256


def train(
    texts: Iterable[str], vocab_size: int = 8192, num_masks: int = 100, more_tokens: Sequence[str] = ()
) -> Tokenizer:
    """Trains a byte-level BPE; the same texts give the same tokenizer.

    Text is cut by GPT-2's pattern. It keeps a newline together with the indentation that follows it, except for the
    last space, which belongs to the word: deep indentation becomes one token of a vocabulary that is trained on code.
    Control tokens take the first ids: eod, sep, eom, masks 1, 2, .., and further ones.

    Args:
        texts: the corpus.
        vocab_size: entries, control tokens and the 256 bytes included. A small corpus may give fewer.
        num_masks: mask sentinels.
        more_tokens: further control tokens, such as those of docstring-code pairs.

    Raises:
        UserError: the vocabulary has no room for the bytes and control tokens.
    """
    control_texts = [EOD_TEXT, SEP_TEXT, EOM_TEXT, *(mask_text(k) for k in range(1, num_masks + 1)), *more_tokens]
    if vocab_size < len(control_texts) + NUM_BYTES:
        raise UserError(
            f"a vocabulary of {vocab_size} has no room for {NUM_BYTES} bytes and {len(control_texts)} control tokens; "
            f"take at least {len(control_texts) + NUM_BYTES}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=control_texts,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer.from_json(tokenizer.to_str(), "the trained tokenizer")
