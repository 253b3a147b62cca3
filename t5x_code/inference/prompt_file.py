"""JSONL files of prompts in, and the same lines with the model's completions out."""

import dataclasses
import functools
import json
from collections.abc import Callable, Container, Sequence
from typing import Any

from etils import epath

from t5x_code.errors import UserError
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import (
    Completion,
    StopRule,
    TextModel,
    complete,
    infill,
    infill_prompt,
    left_to_right_prompt,
)
from t5x_code.inference.prefill import check_fits
from t5x_code.output_file import write_whole
from t5x_code.surrogates import holds_surrogates

LEFT_TO_RIGHT = {"prompt"}
INFILL = {"prefix", "suffix"}


@dataclasses.dataclass(frozen=True)
class PromptLine:
    """One line of a prompt file."""

    name: str  # path and line number, for messages
    record: dict[str, Any]  # the line's object: `prompt`, or `prefix` and `suffix`; more fields are passed through

    @property
    def is_infill(self) -> bool:
        """Has a prefix and a suffix rather than a prompt."""
        return "prompt" not in self.record


def read_prompt_file(path: str) -> list[PromptLine]:
    """Reads and checks all lines; blank ones are skipped.

    Raises:
        UserError: the file cannot be read, or a line is not an object with `prompt`, or `prefix` and `suffix`, as text.
    """
    try:
        lines = epath.Path(path).read_text().split("\n")
    except OSError as error:
        raise UserError(f"input file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"input file {path} is not UTF-8 text: {error}") from error
    prompts = [_parse(f"{path} line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UserError(f"input file {path} has no lines; write one JSON object a line")
    return prompts


def _parse(name: str, line: str) -> PromptLine:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not JSON: {error}") from error
    fields = (LEFT_TO_RIGHT | INFILL) & record.keys() if isinstance(record, dict) else set()
    if fields not in (LEFT_TO_RIGHT, INFILL) or not all(isinstance(record[field], str) for field in fields):
        raise UserError(f'{name} must be {{"prompt": text}} or {{"prefix": text, "suffix": text}}')
    if any(holds_surrogates(record[field]) for field in fields):
        raise UserError(f"{name} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; remove it")
    return PromptLine(name, record)


def check_lines_fit(model: TextModel, lines: Sequence[PromptLine], max_new_tokens: int) -> None:
    """Raises UserError for the first line that is too long for the model's context, before any work is done."""
    for line in lines:
        if line.is_infill:
            prompt = infill_prompt(model, line.record["prefix"], line.record["suffix"])
        else:
            prompt = left_to_right_prompt(model, line.record["prompt"])
        check_fits(len(prompt), max_new_tokens, model.config.max_length, line.name)


def complete_lines(
    model: TextModel,
    lines: Sequence[PromptLine],
    generation: GenerationConfig,
    stop: StopRule | None,
    skip: Container[int],
    on_texts: Callable[[dict[int, list[str]]], None],
) -> None:
    """Completes each line but those to skip, by `complete` or `infill` as its fields ask.

    `on_texts` is called with the completions of the lines just finished, by index.
    """

    def tell(chosen: list[int], answers: dict[int, list[Completion]]) -> None:
        on_texts({chosen[at]: [sample.text for sample in samples] for at, samples in answers.items()})

    for is_infill, respond in ((False, complete), (True, infill)):
        chosen = [index for index, line in enumerate(lines) if line.is_infill == is_infill]
        records = [lines[index].record for index in chosen]
        respond(
            model,
            [(r["prefix"], r["suffix"]) if is_infill else r["prompt"] for r in records],
            generation,
            stop=stop,
            names=[lines[index].name for index in chosen],
            numbers=chosen,  # a line draws what no other one does
            skip={at for at, index in enumerate(chosen) if index in skip},
            on_answers=functools.partial(tell, chosen),
        )


def write_completions(path: str, lines: Sequence[PromptLine], completions: Sequence[Sequence[str]]) -> None:
    """Writes each line's object plus `completions`, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    records = [{**line.record, "completions": list(texts)} for line, texts in zip(lines, completions, strict=True)]
    write_whole(path, "".join(f"{json.dumps(record)}\n" for record in records))
