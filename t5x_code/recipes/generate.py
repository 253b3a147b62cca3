"""Completes a file of prompts; one that was interrupted goes on where it stopped."""

import hashlib
import json
from collections.abc import Sequence

from etils import epath

from t5x_code.evaluation.sample_problems import drawn_with
from t5x_code.evaluation.samples_file import SamplesFile
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import TextModel, at_strings
from t5x_code.inference.prompt_file import PromptLine, complete_lines, write_completions
from t5x_code.progress import progress_bar


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
