"""Text in, text out: left-to-right completion, and infilling by CodeGen2's prompt format or StarCoder's.

Prompts are put together from token ids, so text that spells a control token remains text.
"""

import dataclasses
import functools
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from jax.sharding import Mesh

from t5x_code.errors import UserError
from t5x_code.inference.generation import GenerationConfig, generate
from t5x_code.models.config import TransformerConfig
from t5x_code.models.few_rows import Decoding, decoding_params

StopRule = Callable[[str], int | None]  # text so far -> how much of it to keep, or None to go on


@dataclasses.dataclass(frozen=True)
class StopStrings:
    """A stop rule that ends a text before the first occurrence of any of these.

    Of those that spell a control token, which no decoded text shows, the token ends a text as well.
    """

    strings: tuple[str, ...]

    def __call__(self, text: str) -> int | None:
        """Where the first one begins."""
        found = [text.find(string) for string in self.strings]
        return min((at for at in found if at >= 0), default=None)


def at_strings(strings: Sequence[str]) -> StopRule | None:
    """Ends a text before the first occurrence of any of these; None for none."""
    return StopStrings(tuple(strings)) if strings else None


class FimTokens(Protocol):
    """The ids of StarCoder's infilling."""

    prefix: int
    middle: int
    suffix: int


class ControlTokens(Protocol):
    """The ids that shape prompts; `masks[0]` is `<mask_1>`, `every_infill` all but eod, empty where there are none."""

    eod: int
    sep: int | None
    eom: int | None
    masks: tuple[int, ...]
    fim: FimTokens | None
    every_infill: tuple[int, ...]


class TextCodec(Protocol):
    """The part of a tokenizer that is needed here."""

    special_tokens: ControlTokens

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, without control tokens."""

    def encode_prompt(self, text: str) -> np.ndarray:
        """Token ids of a text that is to be gone on with, laid out as the model was trained on it."""

    def encode_continuation(self, text: str) -> np.ndarray:
        """Token ids of a text that goes on behind another."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens left out."""

    def decode_continuation(self, ids: Sequence[int], behind: str = "") -> str:
        """Text of token ids that go on behind others, which say this text."""


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A model with what it takes to talk to it."""

    config: TransformerConfig
    params: Any
    tokenizer: TextCodec
    begin: tuple[int, ...] = ()  # before each document's first token, as in training: eod, or a released model's own
    name: str = ""  # which model and checkpoint, for what is made with it
    mesh: Mesh | None = None  # what the parameters are laid out on; None: one device
    int8: bool = False  # read weights rounded to 8 bits when generating
    stop_tokens: tuple[int, ...] = ()  # that end a document beside eod
    forbidden_tokens: tuple[int, ...] = ()  # never written, such as the text rows of a split vocabulary
    # By the texts that spell them, which `decode` leaves out.
    control_ids: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # How many of a prompt's first tokens see each other both ways: those that did in training.
    prefix_length: Callable[[np.ndarray], int] = lambda prompt_N: 0

    @functools.cached_property
    def decoding(self) -> Decoding:
        """The parameters as generation reads them, laid out at its first use."""
        return decoding_params(self.config, self.params, self.int8)


@dataclasses.dataclass(frozen=True)
class Completion:
    """What the model wrote."""

    text: str  # up to the stop token or where the stop rule says
    tokens: tuple[int, ...]  # as generated: an ending stop token included
    ended_by: Literal["stop_token", "stop_rule", "length"]


OnAnswers = Callable[[dict[int, list[Completion]]], None]


def complete(
    model: TextModel,
    prompts: Sequence[str],
    generation: GenerationConfig,
    *,
    stop: StopRule | None = None,
    names: Sequence[str] | None = None,
    numbers: Sequence[int] | None = None,
    skip: Container[int] = (),
    on_answers: OnAnswers = lambda answers: None,
) -> list[list[Completion]]:
    """Continues each prompt left to right until the document ends, the stop rule holds or the tokens run out.

    The control tokens of infilling are never chosen (our choice; the paper is silent).

    Args:
        model: the model.
        prompts: texts; an empty one asks for a whole document.
        generation: how; its stop and forbidden tokens are added to.
        stop: where in its text a completion ends.
        names: what error messages call the prompts.
        numbers: key the draws of each prompt; its index if not given.
        skip: indices of prompts that need no answer, as in `generate`.
        on_answers: called with the completions of the prompts just finished, by index.

    Returns:
        `num_samples` completions for each prompt.
    """
    control = model.tokenizer.special_tokens
    generation = dataclasses.replace(
        generation,
        stop_tokens=(*generation.stop_tokens, *model.stop_tokens, control.eod),
        forbidden_tokens=(*generation.forbidden_tokens, *model.forbidden_tokens, *control.every_infill),
    )
    ids = [left_to_right_prompt(model, prompt) for prompt in prompts]
    prefix_lengths = [model.prefix_length(prompt_N) for prompt_N in ids]
    return _completions(model, prompts, ids, prefix_lengths, generation, stop, names, numbers, skip, on_answers)


def infill(
    model: TextModel,
    prefixes_and_suffixes: Sequence[tuple[str, str]],
    generation: GenerationConfig,
    *,
    stop: StopRule | None = None,
    names: Sequence[str] | None = None,
    numbers: Sequence[int] | None = None,
    skip: Container[int] = (),
    on_answers: OnAnswers = lambda answers: None,
    at_eod: bool = True,
) -> list[list[Completion]]:
    """Writes what stands between each prefix and suffix; it ends at `<eom>`, as in training.

    Other tokens of infilling are never chosen (our choice; the paper is silent). Arguments and result as in `complete`.

    Args:
        at_eod: whether it ends at the document's end too [ours]. Without, as CodeGen2 is evaluated, what a model writes
            behind that is part of its answer; a model without `<eom>` ends there all the same.

    Raises:
        UserError: the tokenizer has none of the tokens that it takes.
    """
    ids = [infill_prompt(model, prefix, suffix) for prefix, suffix in prefixes_and_suffixes]
    control = model.tokenizer.special_tokens
    ends = () if control.eom is None else (control.eom,)
    if at_eod or not ends:
        ends = (*ends, control.eod, *model.stop_tokens)
    forbidden = (token for token in control.every_infill if token not in ends)
    generation = dataclasses.replace(
        generation,
        stop_tokens=(*generation.stop_tokens, *ends),
        forbidden_tokens=(*generation.forbidden_tokens, *model.forbidden_tokens, *forbidden),
    )
    prefixes = [prefix for prefix, _ in prefixes_and_suffixes]
    return _completions(model, prefixes, ids, None, generation, stop, names, numbers, skip, on_answers)


def left_to_right_prompt(model: TextModel, prompt: str) -> np.ndarray:
    """Ids of the prompt, led by what the model has learnt to begin with."""
    return np.concatenate([np.array(model.begin, np.int32), model.tokenizer.encode_prompt(prompt)])


def infill_prompt(model: TextModel, prefix: str, suffix: str) -> np.ndarray:
    """Ids of `prefix <mask_1> suffix <|endoftext|> <sep> <mask_1>` (CodeGen2 model card), led as a document is.

    Where there are no masks, of `<fim_prefix> prefix <fim_suffix> suffix <fim_middle>` (StarCoder, arXiv 2305.06161).

    Raises:
        UserError: the tokenizer has none of these tokens.
    """
    control = model.tokenizer.special_tokens
    if control.masks:
        mask = control.masks[0]
        before, between, behind = (), (mask,), (control.eod, control.sep, mask)
    elif control.fim is not None:
        before, between, behind = (control.fim.prefix,), (control.fim.suffix,), (control.fim.middle,)
    else:
        raise UserError(
            "this model's tokenizer has neither <sep>, <eom> and masks nor <fim_prefix>, <fim_suffix> and "
            "<fim_middle>: it completes, but does not infill"
        )
    prefix_ids, suffix_ids = model.tokenizer.encode(prefix), model.tokenizer.encode_continuation(suffix)
    parts = (model.begin, before, prefix_ids, between, suffix_ids, behind)
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def _completions(
    model: TextModel,
    befores: Sequence[str],
    prompts: list[np.ndarray],
    prefix_lengths: list[int] | None,
    generation: GenerationConfig,
    stop: StopRule | None,
    names: Sequence[str] | None,
    numbers: Sequence[int] | None,
    skip: Container[int],
    on_answers: OnAnswers,
) -> list[list[Completion]]:
    """Completions of prompts, and the texts that stand before them."""
    if isinstance(stop, StopStrings):
        spelt = [model.control_ids[string] for string in stop.strings if string in model.control_ids]
        generation = dataclasses.replace(generation, stop_tokens=(*generation.stop_tokens, *spelt))

    def should_stop(index: int, tokens: list[int]) -> bool:
        return stop(model.tokenizer.decode_continuation(tokens, befores[index])) is not None

    def finish(index: int, samples: list[list[int]]) -> list[Completion]:
        before = befores[index]
        return [_completion(model.tokenizer, before, tokens, generation.stop_tokens, stop) for tokens in samples]

    results = generate(
        model.config,
        model.decoding,
        prompts,
        generation,
        mesh=model.mesh,
        prefix_lengths=prefix_lengths,
        should_stop=should_stop if stop else None,
        names=names,
        numbers=numbers,
        skip=skip,
        on_answers=lambda answers: on_answers({index: finish(index, samples) for index, samples in answers.items()}),
    )
    return [finish(index, samples) for index, samples in enumerate(results)]


def _completion(
    tokenizer: TextCodec, before: str, tokens: list[int], stop_tokens: tuple[int, ...], stop: StopRule | None
) -> Completion:
    ended = tokens[-1] in stop_tokens
    text = tokenizer.decode_continuation(tokens[:-1] if ended else tokens, before)
    cut = stop(text) if stop else None
    if cut is not None:
        return Completion(text[:cut], tuple(tokens), "stop_rule")
    return Completion(text, tuple(tokens), "stop_token" if ended else "length")
