"""Completes one prompt, or a file of them; a file that was interrupted goes on where it stopped."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from etils import epath

from t5x_code.errors import UserError
from t5x_code.evaluation.sample_problems import drawn_with
from t5x_code.evaluation.samples_file import SamplesFile
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import Completion, TextModel, at_strings, complete, infill
from t5x_code.inference.prompt_file import (
    PromptLine,
    check_lines_fit,
    complete_lines,
    read_prompt_file,
    write_completions,
)
from t5x_code.inference.sampling import Sampling
from t5x_code.output_file import check_writable
from t5x_code.progress import progress_bar
from t5x_code.recipes.open_model import open_model
from t5x_code.surrogates import holds_surrogates

MAX_NEW_TOKENS = 128  # where the command says nothing


@dataclasses.dataclass(frozen=True)
class GenerateCommand:
    """The flags of `launch/generate.py`, which says what each is. One of `prompt`, `prefix` and `suffix`, `input_file`
    and `output_file` is given."""

    model_dir: str
    prompt: str | None
    prefix: str | None
    suffix: str | None
    input_file: str | None
    output_file: str | None
    max_new_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    num_samples: int
    seed: int
    int8: bool
    batch_size: int
    stop: Sequence[str]


def generate_command(command: GenerateCommand) -> list[Completion]:
    """Reads the model and lets it write.

    Returns:
        The completions of the prompt or the gap; none of a file, which is written.

    Raises:
        UserError: a text that is not UTF-8, an option out of its range, a model or a file that cannot be read, a prompt
            that does not fit, or an output that cannot be written.
    """
    for name in ("prompt", "prefix", "suffix"):
        if holds_surrogates(getattr(command, name) or ""):
            raise UserError(f"--{name} is not UTF-8: is a character cut in half? give whole ones")
    generation = GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS if command.max_new_tokens is None else command.max_new_tokens,
        sampling=Sampling(command.temperature, command.top_k, command.top_p),
        num_samples=command.num_samples,
        seed=command.seed,
        batch_size=command.batch_size,
    )
    num_prompts = 1
    if command.input_file is not None:
        lines = read_prompt_file(command.input_file)
        check_writable(command.output_file)
        num_prompts = len(lines)
    model = open_model(command.model_dir, int8=command.int8, num_prompts=num_prompts)
    if command.max_new_tokens is None:
        most = min(generation.max_new_tokens, model.config.max_length // 2)
        generation = dataclasses.replace(generation, max_new_tokens=most)
    if command.input_file is not None:
        check_lines_fit(model, lines, generation.max_new_tokens)
        complete_file(model, lines, command.output_file, generation, command.stop)
        return []
    stop = at_strings(command.stop)
    if command.prompt is not None:
        return complete(model, [command.prompt], generation, stop=stop, names=["--prompt"])[0]
    gap = [(command.prefix, command.suffix)]
    return infill(model, gap, generation, stop=stop, names=["--prefix and --suffix"])[0]


def complete_file(
    model: TextModel, lines: Sequence[PromptLine], output: str, generation: GenerationConfig, stops: Sequence[str]
) -> None:
    """Writes the lines with their completions, in their order, once all are made.

    Until then completions are kept beside the output, each on the disk when its batch is done: OUTPUT.samples.jsonl,
    whose task ids number the lines from 1.

    Raises:
        UserError: what is kept there was made otherwise, or nothing can be written.
    """
    records = hashlib.sha256(json.dumps([line.record for line in lines]).encode()).hexdigest()
    made_with = drawn_with(model, generation) | {"lines": records, "stop": list(stops)}
    path = epath.Path(output)
    beside = str(path.with_name(f"{path.name}.samples.jsonl"))
    names = [str(number) for number in range(1, len(lines) + 1)]
    with SamplesFile(beside, made_with, flag="--output_file") as kept:
        done = {at for at, name in enumerate(names) if len(kept.samples.get(name, [])) >= generation.num_samples}
        with progress_bar(total=len(lines), initial=len(done), unit="prompt") as progress:

            def keep(texts: dict[int, list[str]]) -> None:
                kept.complete({names[at]: completions for at, completions in texts.items()})
                progress.update(len(texts))

            complete_lines(model, lines, generation, at_strings(stops), done, keep)
        write_completions(output, lines, [kept.samples[name] for name in names])
        kept.remove()
