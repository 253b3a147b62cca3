"""A whole run as one frozen value, and the classes that gin files may configure."""

import dataclasses

import gin
from t5x_code.data.declarations import Rate
from t5x_code.errors import UserError
from t5x_code.evaluation.in_training import BenchmarksConfig
from t5x_code.field_types import checked
from t5x_code.models.config import RopeScaling, TransformerConfig
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.equivalence_text import EquivalenceText
from t5x_code.objectives.example import Objective, PackingObjective
from t5x_code.objectives.infill import Infill
from t5x_code.objectives.ntp_plus import NtpPlus
from t5x_code.objectives.prefix_lm import PrefixLM
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.objectives.ul2 import UL2
from t5x_code.parallel.hosts import HostsConfig
from t5x_code.parallel.mesh import MeshConfig
from t5x_code.training.batch_size import batch_sizes_of
from t5x_code.training.loop_config import LoopConfig
from t5x_code.training.losses import LossConfig
from t5x_code.training.optimizer import OptimizerConfig
from t5x_code.training.schedules import ScheduleConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where rows come from and what is made of them."""

    mixture: str | tuple[tuple[str, Rate], ...]  # a task or mixture by name, or ((name, rate or schedule), ..)
    # Each with its share of the rows of every task.
    objectives: tuple[tuple[Objective | PackingObjective, float], ...]
    stores: str | None = None  # folder of token stores; None: one in the user's cache
    tokenizer: str | None = None  # folder or hub name; None: the stores' own, that of `initialize_from`, or a new one
    initialize_from: str | None = None  # the model directory of that tokenizer, if it has one
    length: int = 2048
    isolate_documents: bool = True
    seed: int = 0
    # The objectives of single tasks, in place of `objectives`: ((task, ((objective, share), ..)), ..).
    task_objectives: tuple[tuple[str, tuple[tuple[Objective | PackingObjective, float], ...]], ...] = ()
    modality_separation: str = "none"  # what of the vocabulary gets rows of its own for code: none, partial, full
    eval_batches: int = 4  # validation batches per task and objective; 0: no validation
    eval_batch_size: int | None = None  # rows of one; None: the training batch size
    threads: int | None = None  # that read ahead; None: a few, or more where a store lies in a bucket

    def __post_init__(self):
        for name, objectives in (("objectives", self.objectives), *self.task_objectives):
            if not objectives or min(share for _, share in objectives) <= 0:
                raise UserError(f"DataConfig: {name} has {objectives}: write ((@CausalLM(), 1.0), ..), shares above 0")
        if self.stores == "":
            raise UserError("DATA is empty: name the folder of token stores, or set None")
        for name, least in (("length", 1), ("eval_batches", 0), ("eval_batch_size", 1), ("threads", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"DataConfig.{name} is {value}: it must be {least} or more")

    def objectives_of(self, task: str) -> tuple[tuple[Objective | PackingObjective, float], ...]:
        """A task's objectives with their shares."""
        return dict(self.task_objectives).get(task, self.objectives)

    @property
    def every_objective(self) -> tuple[Objective | PackingObjective, ...]:
        """Those of all tasks."""
        groups = (self.objectives, *(objectives for _, objectives in self.task_objectives))
        return tuple(objective for objectives in groups for objective, _ in objectives)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a run is determined by."""

    model: TransformerConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    data: DataConfig
    loop: LoopConfig
    loss: LossConfig
    benchmarks: BenchmarksConfig
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    initialize_from: str | None = None

    def __post_init__(self):
        if self.loss.contrastive and not any(isinstance(objective, NtpPlus) for objective in self.data.every_objective):
            raise UserError("LossConfig.contrastive needs rows with codes: use the objective NtpPlus, or set it to 0")
        if self.data.length > self.model.max_length:
            raise UserError(
                f"rows of {self.data.length} tokens are longer than the model's context of {self.model.max_length}; "
                "set SEQUENCE_LENGTH"
            )

    @property
    def eval_batch_size(self) -> int:
        """Rows of a validation batch."""
        return self.data.eval_batch_size or batch_sizes_of(self.loop.batch_size)[0]


# A new objective is one file in objectives/ and one name here.
CONFIGURABLES = (
    Recipe,
    DataConfig,
    TransformerConfig,
    RopeScaling,
    OptimizerConfig,
    ScheduleConfig,
    LossConfig,
    MeshConfig,
    HostsConfig,
    BenchmarksConfig,
    LoopConfig,
    CausalLM,
    PrefixLM,
    SpanCorruption,
    Infill,
    UL2,
    TextToCode,
    NtpPlus,
    EquivalenceText,
)


def register_configurables() -> None:
    """Puts the classes above into gin's registry, once per process."""
    for configurable in CONFIGURABLES:
        gin.external_configurable(checked(configurable), name=configurable.__name__, module="t5x_code")


register_configurables()
