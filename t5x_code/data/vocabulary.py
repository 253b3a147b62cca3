"""A SeqIO vocabulary over our tokenizer, so that SeqIO tasks and token stores hold the same ids."""

from collections.abc import Iterable, Sequence

import numpy as np

from t5x_code.data.quiet_tensorflow import quiet_tensorflow
from t5x_code.tokens.tokenizer import Tokenizer

with quiet_tensorflow():
    import seqio
    import tensorflow as tf


class TokenizerVocabulary(seqio.Vocabulary):
    """Encodes as `Tokenizer.encode`; `eos_id` is eod, which SeqIO's `append_eos` puts after a document."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    @property
    def bos_id(self) -> int:
        return self.tokenizer.special_tokens.eod

    @property
    def eos_id(self) -> int:
        return self.tokenizer.special_tokens.eod

    @property
    def unk_id(self) -> None:
        """Bytes are always known."""
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return self.tokenizer.encode(s).tolist()

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: bytes | np.ndarray) -> np.ndarray:  # bytes in a graph, an array of one when eager
            return self.tokenizer.encode(np.asarray(text, dtype=object).item().decode("utf-8"))

        ids = tf.numpy_function(encode, [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> np.ndarray:
            flat = [self.decode(row).encode("utf-8") for row in rows.reshape(-1, rows.shape[-1]).tolist()]
            return np.array(flat, dtype=object).reshape(rows.shape[:-1])

        texts = tf.numpy_function(decode, [ids], tf.string)
        texts.set_shape(ids.shape[:-1])
        return texts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenizerVocabulary) and other.tokenizer.fingerprint == self.tokenizer.fingerprint

    def __hash__(self) -> int:
        return hash(self.tokenizer.fingerprint)
