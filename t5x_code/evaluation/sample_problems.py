"""Draws answers to problems from a model, in batches that are fixed by the problems alone."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Container, Sequence
from typing import Any

from t5x_code.errors import UserError
from t5x_code.evaluation.problems import Problem
from t5x_code.evaluation.protocols import Protocol
from t5x_code.evaluation.request import Sampled
from t5x_code.evaluation.samples_file import PROBLEMS, WEIGHTS, SamplesFile
from t5x_code.evaluation.weights_digest import weights_digest
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import (
    Completion,
    StopRule,
    TextModel,
    at_strings,
    complete,
    infill,
    infill_prompt,
    left_to_right_prompt,
)
from t5x_code.inference.sampling import Sampling

_CONTROL_TOKENS = 6  # of the infill format, at most


def drawn_with(model: TextModel, generation: GenerationConfig) -> dict[str, Any]:
    """What of a model and of the draws determines the texts that it writes, plain JSON."""
    return {
        "model": model.name,
        WEIGHTS: weights_digest(model.params),
        "int8": model.int8,
        "temperature": generation.sampling.temperature,
        "top_p": generation.sampling.top_p,
        "top_k": generation.sampling.top_k,
        "num_samples": generation.num_samples,
        "max_new_tokens": generation.max_new_tokens,
        "seed": generation.seed,
        "batch_size": generation.batch_size,
    }


def made_with(model: TextModel, draws: "Draws", name: str) -> dict[str, Any]:
    """What determines the samples, the protocol's name among it, plain JSON."""
    # "gap" tells infills from what was once asked for left to right: gaps at a text's end.
    texts = "\0".join(f"{p.task_id}\0{p.prompt}\0{p.suffix}" + "\0gap" * p.is_infill for p in draws.problems)
    problems = hashlib.sha256(texts.encode()).hexdigest()
    return drawn_with(model, draws.generation) | {PROBLEMS: problems, "protocol": name}


def with_lengths_of(model: TextModel, protocol: Protocol, sampled: Sampled) -> Protocol:
    """The protocol with as many new tokens as the model's context takes beside prompts: half of it, unless asked for.

    Raises:
        UserError: those that were asked for leave no room for a prompt.
    """
    context = model.config.max_length
    if sampled.max_new_tokens is None:
        return dataclasses.replace(protocol, max_new_tokens=min(protocol.max_new_tokens, context // 2))
    check_room(sampled.max_new_tokens, context)
    return protocol


def check_room(max_new_tokens: int, context: int) -> None:
    """Raises a UserError if that many new tokens leave no room for a prompt in a context."""
    most = context - _CONTROL_TOKENS - 1
    if max_new_tokens > most:
        raise UserError(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the model's context of {context}; "
            f"give at most {most}"
        )


@dataclasses.dataclass(frozen=True)
class Draws:
    """What is asked of a model."""

    problems: Sequence[Problem]
    fitting: Sequence[Problem]  # the same, cut to the context: prompts at their beginning, suffixes at their end
    generation: GenerationConfig
    stop: StopRule | None  # of problems that say none of their own

    @property
    def truncated_prompts(self) -> int:
        """How many prompts were longer than the context."""
        pairs = zip(self.fitting, self.problems, strict=True)
        return sum(one.prompt != p.prompt or one.suffix != p.suffix for one, p in pairs)


def plan_draws(model: TextModel, problems: Sequence[Problem], protocol: Protocol, sampled: Sampled) -> Draws:
    """What is asked, found out before anything is written.

    Raises:
        UserError: numbers that mean nothing, a model that does not infill for problems that want it, or no room for a
            prompt.
    """
    generation = GenerationConfig(
        max_new_tokens=protocol.max_new_tokens,
        sampling=Sampling(protocol.temperature, sampled.top_k or 0, protocol.top_p),
        num_samples=protocol.num_samples,
        seed=sampled.seed,
        batch_size=sampled.batch_size,
    )
    room = model.config.max_length - protocol.max_new_tokens
    return Draws(problems, [fit(model, problem, room) for problem in problems], generation, protocol.stop)


def draw_samples(
    model: TextModel,
    draws: Draws,
    file: SamplesFile,
    done: Container[str],
    on_samples: Callable[[list[tuple[str, str]]], None],
) -> None:
    """Draws the samples of each problem that is not done, appends them and passes them on."""

    def keep(asked: Sequence[Problem], answers: dict[int, list[Completion]]) -> None:
        texts = {asked[at].task_id: [c.text for c in completions] for at, completions in answers.items()}
        file.complete(texts)
        on_samples([(task_id, text) for task_id in texts for text in file.samples[task_id]])

    alike: dict[tuple[bool, tuple[str, ...]], list[int]] = {}
    for index, problem in enumerate(draws.fitting):
        alike.setdefault((problem.is_infill, problem.stops), []).append(index)
    for (is_infill, stops), indices in alike.items():
        asked = [draws.fitting[index] for index in indices]
        respond = functools.partial(infill, at_eod=False) if is_infill else complete
        respond(
            model,
            [(p.prompt, p.suffix) if is_infill else p.prompt for p in asked],
            draws.generation,
            stop=at_strings(stops) or draws.stop,
            names=[p.task_id for p in asked],
            numbers=indices,
            skip={at for at, problem in enumerate(asked) if problem.task_id in done},
            on_answers=functools.partial(keep, asked),
        )


def fit(model: TextModel, problem: Problem, room: int) -> Problem:
    """The problem with as much of its prompt's end, and its suffix's beginning, as the context takes.

    Raises:
        UserError: what stands around them takes more than that already.
    """
    fitting, tokens_left = problem, room - _CONTROL_TOKENS
    while (over := _num_tokens(model, fitting) - room) > 0:
        if fitting is not problem and tokens_left <= 0:
            raise UserError(
                f"{problem.task_id}: a prompt without any text takes {room + over} tokens, but the model's context has "
                f"room for {room} beside the new ones; lower --max_new_tokens, or take a model of a longer context"
            )
        if fitting is not problem:  # cut inside a word or a character, a text may take more tokens than it was cut to
            tokens_left -= over
        fitting = _cut(model, problem, max(0, tokens_left))
    return fitting


def _num_tokens(model: TextModel, problem: Problem) -> int:
    if problem.is_infill:
        return len(infill_prompt(model, problem.prompt, problem.suffix))
    return len(left_to_right_prompt(model, problem.prompt))


def _cut(model: TextModel, problem: Problem, most: int) -> Problem:
    """The problem with at most so many tokens of its prompt's end and its suffix's beginning together."""
    encode, decode = model.tokenizer.encode, model.tokenizer.decode_continuation
    prompt, suffix = encode(problem.prompt), encode(problem.suffix)
    of_suffix = min(len(suffix), max(most // 2, most - len(prompt)))
    of_prompt = min(len(prompt), most - of_suffix)
    cut = dataclasses.replace(problem, prompt=decode(prompt[len(prompt) - of_prompt :]))
    return dataclasses.replace(cut, suffix=decode(suffix[:of_suffix])) if problem.is_infill else cut
