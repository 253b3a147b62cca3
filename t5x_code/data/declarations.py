"""What a task and a mixture are, as plain data: training and fingerprints need these and nothing of SeqIO.

A source is read into documents, preprocessors edit them, a tokenizer turns them into a token store; a mixture draws
rows from the stores of its tasks.
"""

import dataclasses
import math
from typing import Any

from t5x_code.errors import UserError
from t5x_code.tokens.modality import CODE_MODALITY

TRAIN = "train"
VALIDATION = "validation"
SPLITS = (TRAIN, VALIDATION)

# A constant, or a piecewise linear schedule ((row, rate), ..) over the rows consumed, flat outside its ends.
Rate = float | tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class SourceDeclaration:
    """Where documents come from."""

    kind: str  # a name in sources.source.SOURCES
    path: str = ""  # pattern, folder or name, as the kind wants it; empty for what this machine has
    options: tuple[tuple[str, str], ...] = ()  # sorted (name, value)

    def option(self, name: str, default: str) -> str:
        """An option's value, or the default."""
        return dict(self.options).get(name, default)


@dataclasses.dataclass(frozen=True)
class TaskDeclaration:
    """One source made into one token store."""

    name: str  # also the store's folder
    source: SourceDeclaration
    preprocessors: tuple[str, ...] = ("normalize_newlines@1",)  # name@version, applied in order
    text_field: str = "text"  # field or column of a record that holds the document
    validation_fraction: float = 0.01  # of documents, chosen by their hash
    store_seed: int = 0  # of the document hash: order of the store and choice of the validation split
    modality: int = CODE_MODALITY  # what the documents are, for modality-split vocabularies

    def to_json(self) -> dict[str, Any]:
        """As a JSON object that `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "TaskDeclaration":
        """Inverse of `to_json`."""
        source = fields["source"]
        options = tuple((name, value) for name, value in source["options"])
        source = SourceDeclaration(source["kind"], source["path"], options)
        return cls(**{**fields, "source": source, "preprocessors": tuple(fields["preprocessors"])})


@dataclasses.dataclass(frozen=True)
class MixtureDeclaration:
    """Tasks and how often rows are drawn from each; rates count relative to their sum."""

    name: str
    rates: tuple[tuple[TaskDeclaration, Rate], ...]

    def __post_init__(self):
        if not self.rates:
            raise UserError(f"mixture {self.name} has no task; give it at least one (task, rate)")
        names = [task.name for task, _ in self.rates]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UserError(f"mixture {self.name} names task {twice} twice; add up its rates")
        for task, rate in self.rates:
            check_rate(rate, f"mixture {self.name}, task {task.name}")

    @property
    def tasks(self) -> tuple[TaskDeclaration, ...]:
        """The tasks, in order."""
        return tuple(task for task, _ in self.rates)


def check_rate(rate: Rate, where: str) -> None:
    """Refuses rates that cannot be drawn from: negative, endless, all zero, or a schedule whose rows do not ascend."""
    if isinstance(rate, int | float):
        if not 0 < rate < math.inf:
            raise UserError(f"{where}: rate {rate} must be above 0 and finite")
        return
    rows = [row for row, _ in rate]
    values = [value for _, value in rate]
    if not rows or rows != sorted(set(rows)) or not all(0 <= value < math.inf for value in values) or max(values) == 0:
        raise UserError(f"{where}: a rate schedule is ((row, rate), ..) with ascending rows and rates of 0 or more")


def scaled(rate: Rate, share: float) -> Rate:
    """The rate, times a constant."""
    return tuple((row, value * share) for row, value in rate) if isinstance(rate, tuple) else rate * share
