"""Text to token ids and back, over any Hugging Face fast tokenizer that keeps the special-token contract.

Control tokens (`<|endoftext|>` or what a family has in its place, `<sep>`, `<eom>`, `<mask_k>`, and where they exist
those of docstring-code pairs and StarCoder's infilling) never come out of encoding text: a source file that spells one
of them gets the bytes of its spelling (of some others `refuse_unlocked` tells). So a token store's `eod` ends documents
and does nothing else.
`encode_marked_batch` alone makes the three control tokens of linearised code, from marks that no source text may hold.
Shape legend: N tokens of a text.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from etils import epath

from t5x_code.errors import UserError, one_line
from t5x_code.tokens.long_text import LONG_TEXT, encode_in_pieces
from t5x_code.tokens.python_words import takes_forms, with_forms
from t5x_code.tokens.special_tokens import (
    EOD_TEXTS,
    EOM_TEXT,
    FIM_TEXTS,
    MARKS,
    PAIR_TEXTS,
    SEP_TEXT,
    FimTokens,
    PairTokens,
    SpecialTokens,
    mask_text,
)

TOKENIZER_FILE = "tokenizer.json"
CONTROL_TEXT = re.compile(
    "|".join([*map(re.escape, (*EOD_TEXTS, SEP_TEXT, EOM_TEXT, *PAIR_TEXTS, *FIM_TEXTS)), r"<mask_[1-9]\d*>"])
)
# How byte-level tokenizers spell bytes (GPT-2): those that are letters as they are, the others by letters from 256 on.
_SHOWN = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
_HIDDEN = (byte for byte in range(256) if byte not in _SHOWN)
BYTE_OF = {chr(byte): byte for byte in _SHOWN} | {chr(256 + n): byte for n, byte in enumerate(_HIDDEN)}
AT_MARKS = re.compile(f"([{''.join(MARKS)}])")


class Tokenizer:
    """A tokenizer with its control tokens found and locked. Make one by `load`, `from_json` or `train_bpe.train`."""

    def __init__(self, description: dict, origin: str):
        """Takes a parsed tokenizer.json; `origin` is where it came from, for messages."""
        locked = _lock_control_tokens(description)
        self._json = json.dumps(locked, ensure_ascii=False)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(self._json)
        except Exception as error:  # the Rust library raises bare Exception
            raise UserError(f"{origin}: not a Hugging Face fast tokenizer ({error})") from error
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens = _find_special_tokens(locked, origin)
        self.eod_text = self._tokenizer.id_to_token(self.special_tokens.eod)
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.fingerprint = hashlib.sha256(json.dumps(locked, sort_keys=True).encode()).hexdigest()

    def refuse_unlocked(self) -> None:
        """Raises a UserError where a text is taken for a control token, as by a model that has it as a word, too: no
        store is made with such a tokenizer."""
        for token in self.special_tokens.all_ids:
            text = self._tokenizer.id_to_token(token)
            if np.isin(self.encode(text), self.special_tokens.all_ids).any():
                raise UserError(
                    f"the tokenizer takes the text {text} for that token, which must not come out of a text; choose "
                    "one that cuts it into parts, such as a byte-level BPE"
                )

    @classmethod
    def from_json(cls, text: str, origin: str) -> "Tokenizer":
        """Reads the text of a tokenizer.json; `origin` names it in messages."""
        try:
            description = json.loads(text)
        except ValueError as error:
            raise UserError(f"{origin}: not JSON ({error}); take the tokenizer.json of a fast tokenizer") from error
        added = description.get("added_tokens", []) if isinstance(description, dict) else None
        if not isinstance(added, list) or not all(isinstance(token, dict) and _is_named(token) for token in added):
            raise UserError(f"{origin}: not a Hugging Face fast tokenizer (its added_tokens are no list of tokens)")
        return cls(description, origin)

    @classmethod
    def load(cls, name_or_folder: str) -> "Tokenizer":
        """Loads a folder, local or in a bucket, that holds tokenizer.json, or else a tokenizer of the Hugging Face hub.

        Raises:
            UserError: nothing there, unreadable, or a control token is missing.
        """
        folder = epath.Path(name_or_folder)
        if folder.is_dir():
            file = folder / TOKENIZER_FILE
            if not file.is_file():
                raise UserError(f"{folder} holds no {TOKENIZER_FILE}; pass a fast tokenizer's folder or hub name")
            try:
                return cls.from_json(file.read_text(), str(file))
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{file} cannot be read ({getattr(error, 'strerror', None) or error})") from error
        if len(folder.parts) > 2 or folder.is_absolute():
            raise UserError(f"tokenizer folder {folder} does not exist")
        try:
            text = tokenizers.Tokenizer.from_pretrained(str(name_or_folder)).to_str()
        except Exception as error:  # the Rust library raises bare Exception
            reason = one_line(error)[:200]
            raise UserError(
                f"tokenizer {name_or_folder} is neither a folder nor found on the Hugging Face hub ({reason})"
            ) from error
        return cls.from_json(text, str(name_or_folder))

    def encode(self, text: str) -> np.ndarray:
        """Token ids [N] int32 of a text; nothing is added, control texts come out as ordinary text."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    encode_prompt = encode  # a plain tokenizer lays nothing out

    def encode_continuation(self, text: str) -> np.ndarray:
        """`encode` of a text that goes on behind another one: without the space that SentencePiece puts first."""
        if not self._leads_with_space:
            return self.encode(text)
        return self.encode("\n" + text)[len(self.encode("\n")) :]

    def decode_continuation(self, ids: Iterable[int], behind: str = "") -> str:
        """`decode` of ids that go on behind others: with the space that SentencePiece takes from the first word.

        The text that stands `behind` them makes no difference to a plain tokenizer.
        """
        if not self._leads_with_space:
            return self.decode(ids)
        lead = self.encode("a").tolist()
        return self.decode([*lead, *ids])[len(self.decode(lead)) :]

    @functools.cached_property
    def _leads_with_space(self) -> bool:
        return self._tokenizer.encode("\n", add_special_tokens=False).tokens[:1] == ["\u2581"]

    @functools.cached_property
    def begin_tokens(self) -> tuple[int, ...]:
        """What the tokenizer's own template puts before a text, such as a Llama's `<s>`; this class adds none."""
        whole, plain = (self._tokenizer.encode("a", add_special_tokens=special).ids for special in (True, False))
        starts = range(len(whole) - len(plain) + 1)
        return next((tuple(whole[:start]) for start in starts if whole[start : start + len(plain)] == plain), ())

    def is_special(self, token: int) -> bool:
        """Whether a token stands for no text: `decode` leaves it out."""
        return token in self._special_ids

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, on all cores; a long one is not given to the tokenizer at once."""
        others = iter(self._encode_at_once([text for text in texts if len(text) <= LONG_TEXT]))
        return [
            encode_in_pieces(text, self._encode_at_once) if len(text) > LONG_TEXT else next(others) for text in texts
        ]

    def _encode_at_once(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def encode_marked_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, in which marks stand for the control tokens of linearised code.

        Raises:
            UserError: a text holds marks and the tokenizer has no tokens for them.
        """
        pieces = [AT_MARKS.split(text) for text in texts]  # text, mark, text, .., text
        marks = self._ids_of_marks()
        if not marks and any(len(piece) > 1 for piece in pieces):
            raise UserError(f"this tokenizer has no {' '.join(MARKS.values())}; extend it with `with_pair_tokens`")
        encoded = iter(self.encode_batch([text for piece in pieces for text in piece[::2]]))
        results = []
        for piece in pieces:
            parts = [next(encoded)]
            for mark in piece[1::2]:
                parts += (marks[mark], next(encoded))
            results.append(np.concatenate(parts))
        return results

    def decode_marked(self, ids: Iterable[int]) -> str:
        """Inverse of `encode_marked_batch` for one text; other control tokens are left out."""
        by_id = {int(array[0]): mark for mark, array in self._ids_of_marks().items()}
        texts, run = [], []
        for token in map(int, ids):
            if token in by_id:
                texts += (self.decode(run), by_id[token])
                run = []
            else:
                run.append(token)
        return "".join([*texts, self.decode(run)])

    def _ids_of_marks(self) -> dict[str, np.ndarray]:
        pair = self.special_tokens.pair
        if pair is None:
            return {}
        ids = (pair.new_line, pair.indent, pair.dedent)
        return {mark: np.array([token], np.int32) for mark, token in zip(MARKS, ids, strict=True)}

    @property
    def is_byte_level(self) -> bool:
        """Whether tokens are bytes, so that any text can be cut anywhere between two characters."""
        return "ByteLevel" in json.dumps(json.loads(self._json).get("decoder"))

    def token_bytes(self) -> list[bytes]:
        """The bytes of each token of a byte-level tokenizer; none for control tokens."""
        added = {entry["id"]: entry for entry in json.loads(self._json)["added_tokens"]}
        found = [b""] * self.vocab_size
        for spelt, token in self.vocabulary().items():
            if token not in added:
                found[token] = bytes(BYTE_OF[letter] for letter in spelt if letter in BYTE_OF)
            elif not added[token]["special"]:
                found[token] = spelt.encode()
        return found

    @functools.cached_property
    def token_sizes(self) -> np.ndarray:
        """The number of bytes of each token of a byte-level tokenizer, int64 [V]."""
        return np.array([len(raw) for raw in self.token_bytes()], np.int64)

    def vocabulary(self) -> dict[str, int]:
        """Id of each entry, spelt as in tokenizer.json."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def with_pair_tokens(self) -> "Tokenizer":
        """This tokenizer with those tokens of docstring-code pairs that it lacks, appended to its vocabulary."""
        return self._extended(PAIR_TEXTS)

    def with_infill_tokens(self, num_masks: int) -> "Tokenizer":
        """This tokenizer with `<sep>`, `<eom>` and masks appended to its vocabulary, where it has none.

        Raises:
            UserError: it has some already, of another number.
        """
        found = len(self.special_tokens.masks)
        if found not in (0, num_masks):
            raise UserError(f"the tokenizer has {found} masks already; it cannot be given {num_masks}")
        return self._extended([SEP_TEXT, EOM_TEXT, *(mask_text(k) for k in range(1, num_masks + 1))])

    def with_python_words(self) -> "Tokenizer":
        """This tokenizer with those forms of Python's words that it lacks, as partial separation needs them.

        Itself where it lacks none, or where it is no byte-level BPE and cannot be given words.

        Raises:
            UserError: with them it would take a control token's spelling for that token.
        """
        description = json.loads(self._json)
        description, num_missing = with_forms(description) if takes_forms(description) else (description, 0)
        if not num_missing:
            return self
        extended = Tokenizer(description, "the tokenizer with Python's words")
        try:
            extended.refuse_unlocked()
        except UserError as error:
            raise UserError(f"this tokenizer cannot be given Python's words: {error}, or 'full' separation") from error
        return extended

    def _extended(self, texts: Sequence[str]) -> "Tokenizer":
        """This tokenizer with those of some control tokens that it lacks, appended to its vocabulary."""
        description = json.loads(self._json)
        present = {token["content"] for token in description["added_tokens"]}
        missing = [text for text in texts if text not in present]
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
        description["added_tokens"] += [
            {"id": self.vocab_size + number, "content": text, **flags} for number, text in enumerate(missing)
        ]
        return Tokenizer(description, "the extended tokenizer") if missing else self

    def decode(self, ids: Iterable[int], keep_special_tokens: bool = False) -> str:
        """Text of token ids; control tokens are left out unless asked for."""
        ids = [int(i) for i in ids]
        return self._tokenizer.decode(ids, skip_special_tokens=not keep_special_tokens)

    def save(self, folder: epath.PathLike) -> None:
        """Writes tokenizer.json, and the few fields by which `transformers.AutoTokenizer` reads the folder too."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.eod_text,
            "eos_token": self.eod_text,
            "unk_token": self.eod_text,
            "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / TOKENIZER_FILE).write_text(self._json)

    def __reduce__(self):
        return Tokenizer.from_json, (self._json, "a pickled tokenizer")


def _lock_control_tokens(description: dict) -> dict:
    """Marks the control tokens as special, so that `encode_special_tokens` keeps them from being parsed out of text."""
    added_tokens = [
        {**token, "special": True, "normalized": False} if CONTROL_TEXT.fullmatch(token["content"]) else token
        for token in description.get("added_tokens", [])
    ]
    return {**description, "added_tokens": added_tokens}


def _is_named(token: dict) -> bool:
    return isinstance(token.get("content"), str) and isinstance(token.get("id"), int)


def _find_special_tokens(description: dict, origin: str) -> SpecialTokens:
    ids = {token["content"]: token["id"] for token in description["added_tokens"]}
    eod = next((ids[text] for text in EOD_TEXTS if text in ids), None)
    if eod is None:
        raise UserError(
            f"tokenizer {origin} has no token that ends a document ({' or '.join(EOD_TEXTS)}); add one to its tokens"
        )
    pair = PairTokens(*(ids[text] for text in PAIR_TEXTS)) if ids.keys() >= set(PAIR_TEXTS) else None
    fim = FimTokens(*(ids[text] for text in FIM_TEXTS)) if ids.keys() >= set(FIM_TEXTS) else None
    infill = (SEP_TEXT, EOM_TEXT, mask_text(1))
    missing = [text for text in infill if text not in ids]
    if len(missing) == len(infill):
        return SpecialTokens(eod, pair=pair, fim=fim)
    if missing:
        raise UserError(
            f"tokenizer {origin} lacks the control tokens {' '.join(missing)}; add them to its added_tokens, "
            f"or choose one that has {SEP_TEXT} {EOM_TEXT} and {mask_text(1)}, {mask_text(2)}, .., or none of them"
        )
    num_masks = sum(text.startswith("<mask_") for text in ids if CONTROL_TEXT.fullmatch(text))
    gap = next((k for k in range(1, num_masks + 1) if mask_text(k) not in ids), None)
    if gap is not None:
        raise UserError(
            f"tokenizer {origin} lacks {mask_text(gap)} though it has {num_masks} masks; number them from 1"
        )
    masks = tuple(ids[mask_text(k)] for k in range(1, num_masks + 1))
    return SpecialTokens(eod=eod, sep=ids[SEP_TEXT], eom=ids[EOM_TEXT], masks=masks, pair=pair, fim=fim)
