"""What every evaluation is handed, and what it hands back."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from t5x_code.errors import UserError
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.inference.infilling import TextModel
from t5x_code.inference.sampling import check_seed

Arrays = dict[str, np.ndarray]
Results = dict[str, Any]  # plain JSON; `metrics` maps names to numbers
Evaluation = Callable[["Request"], Results]


def check_count(name: str, count: int | None) -> None:
    """Raises UserError for a count below 1; None leaves it open."""
    if count is not None and count < 1:
        raise UserError(f"{name} is {count}; it must be 1 or more")


@dataclasses.dataclass(frozen=True)
class Sampled:
    """How answers are drawn; None leaves it to the evaluation's protocol."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_samples: int | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Raises UserError for counts below 1 and a seed that is none."""
        for name in ("num_samples", "max_new_tokens", "batch_size"):
            check_count(name, getattr(self, name))
        check_seed(self.seed)


@dataclasses.dataclass(frozen=True)
class HeldOutRows:
    """Rows that the model was not trained on, as its recipe makes them."""

    batches: dict[str, Callable[[], Iterator[Arrays]]]  # by task/objective
    allowed_2xW: np.ndarray | None = None  # where the vocabulary is split by modality: what a target competes with


@dataclasses.dataclass(frozen=True)
class Request:
    """One evaluation of one model, or of samples that were made elsewhere."""

    name: str  # in the registry
    model: TextModel | None = None
    before: TextModel | None = None  # a second model to compare with
    trained_groups: frozenset[int] = frozenset()  # groups of problems that the model was trained on, by number
    data: str | None = None  # the benchmark's file, where no package carries it
    samples: str | None = None  # samples.jsonl to score; None: the model makes them
    keep_samples: str | None = None  # samples.jsonl to write and to resume from
    protocol: str | None = None  # prompts, truncation and draws by name; None: the evaluation's own
    variant: str | None = None  # in the registry; None: the evaluation itself
    limit: int | None = None  # take the first problems only
    sampled: Sampled = dataclasses.field(default_factory=Sampled)
    execution: Execution = dataclasses.field(default_factory=Execution)
    held_out: Callable[[], Iterator[str]] | None = None  # texts of documents that the model was not trained on
    batches: Callable[[], HeldOutRows] | None = None
    show_progress: bool = True

    def __post_init__(self) -> None:
        """Raises UserError for a limit below 1."""
        check_count("limit", self.limit)

    def require_model(self) -> TextModel:
        """The model, for an evaluation that cannot do without.

        Raises:
            UserError: there is none.
        """
        if self.model is None:
            raise UserError(f"--eval={self.name} needs a model; give --model_dir")
        return self.model

    def require_held_out(self) -> Iterator[str]:
        """Texts that the model was not trained on.

        Raises:
            UserError: there are none.
        """
        if self.held_out is None:
            raise UserError(f"--eval={self.name} needs held-out code; give --data=STORE/validation")
        return self.held_out()
