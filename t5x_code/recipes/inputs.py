"""From a recipe's data section to streams of rows: tokenizer, token stores (made when missing), streams, batches."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import jax
import numpy as np
from etils import epath

from t5x_code.buckets import in_bucket
from t5x_code.data.caching.ensure import build_in_child_process, ensure_store
from t5x_code.data.declarations import TRAIN, VALIDATION, MixtureDeclaration, TaskDeclaration, scaled
from t5x_code.data.loader import MixtureRows, build_rows, data_fingerprint, evaluation_batches, iterate_batches
from t5x_code.data.mixing import BLOCK
from t5x_code.data.sources.source import source_fingerprint, source_kind
from t5x_code.data.streams import PackedRows, Stream, plan_rows
from t5x_code.data.token_store import TokenStore
from t5x_code.errors import UserError
from t5x_code.models.modality import VocabularySplit
from t5x_code.objectives.example import Layout, Objective, PackingObjective
from t5x_code.objectives.ntp_plus import CODE_KINDS
from t5x_code.objectives.pair_codec import MODALITY, PAIRS, PREFIX_LM
from t5x_code.objectives.prefix_lm import PrefixLM
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.recipes.mixture import is_embedded
from t5x_code.recipes.recipe import DataConfig
from t5x_code.recipes.vocabulary import Vocabulary, find_vocabulary, naming_missing_stores, say_once, split_of
from t5x_code.source_code.problems import is_held_out
from t5x_code.terminal import say
from t5x_code.tokens.characters import TokenCharacters
from t5x_code.tokens.modality import describe_split
from t5x_code.tokens.tokenizer import Tokenizer

Arrays = dict[str, np.ndarray]
ROUNDING_SAID = 0.05  # of a stream's share, from which on a person is told
# Where a recipe says no number. A bucket answers in tens of milliseconds, for which a thread waits; as many batches are
# in memory, of some tens of MB each.
THREADS, BUCKET_THREADS = 2, 16
ObjectiveShares = Sequence[tuple[Objective | PackingObjective, float]]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything about the data that a run needs."""

    tokenizer: Tokenizer
    stores: dict[str, epath.Path]  # by task
    layout: Layout
    train: tuple[Stream, ...]
    validation: tuple[Stream, ...]  # one per task and objective


def prepare_inputs(
    config: DataConfig, vocab_size: int, refuse_tokenizer: Callable[[Tokenizer], None] = lambda tokenizer: None
) -> Inputs:
    """Finds or makes the stores of a recipe's mixture.

    If a recipe needs files and is not given DATA, it says so and takes the embedded corpus. If it is given DATA, each
    store that is missing there is announced before it is made, as the folder may be mistyped.

    Args:
        config: the recipe's data.
        vocab_size: of the unsplit model.
        refuse_tokenizer: raises a UserError if the tokenizer will not do, before stores are made with it.

    Raises:
        UserError: unknown mixture, missing data, a store from another tokenizer, a vocabulary larger than the model's.
    """
    vocabulary = find_vocabulary(config, vocab_size)
    mixture, tokenizer, root = vocabulary.mixture, vocabulary.tokenizer, vocabulary.root
    refuse_tokenizer(tokenizer)
    layout = Layout(
        config.length,
        tokenizer.special_tokens,
        config.isolate_documents,
        tokenizer.vocab_size,
        TokenCharacters(tokenizer) if tokenizer.is_byte_level else None,
        vocabulary.tables,
    )
    # The embedded corpus changes a little with each package that is installed; a run has to resume all the same.
    kept = config.stores is None
    # Process 0 was first and has compared a store that all share; a look at its source is thousands of requests.
    compared = in_bucket(root) and jax.distributed.is_initialized() and jax.process_index() > 0
    stores = {
        task.name: ensure_store(
            task,
            tokenizer,
            root,
            functools.partial(_make_missing_store, config, vocabulary, layout),
            compare_source=not compared and not (kept and is_embedded(task.source.kind)),
            tokenizer_flags=vocabulary.tokenizer_flags,
        )
        for task in mixture.tasks
    }
    if layout.modality:
        say(describe_split(layout.modality, tokenizer.vocabulary()))
    train = _streams(config, mixture, stores, TRAIN)
    _refuse_held_out(train)
    return Inputs(tokenizer, stores, layout, train, _streams(config, mixture, stores, VALIDATION))


def _make_missing_store(
    config: DataConfig,
    vocabulary: Vocabulary,
    layout: Layout,
    task: TaskDeclaration,
    tokenizer: Tokenizer,
    root: epath.PathLike,
) -> epath.Path:
    for objective, _ in config.objectives_of(task.name):
        if isinstance(objective, Objective):  # raises for a tokenizer that cannot serve it: a store may take hours
            objective.raw_length(layout, np.array([layout.length]))  # of a made-up document
    if not source_kind(task.source).state_needs_tensorflow:  # which stays out of this process
        with naming_missing_stores(config, [task.name]):
            source_fingerprint(task.source)  # raises where there is no corpus, before a store is promised
    if config.stores is not None:
        within = "" if str(root) == str(config.stores) else f", in {root}"
        say_once(
            f"DATA={config.stores} holds no store {task.name}: making it now{within}, with the tokenizer "
            f"{vocabulary.folder} of {tokenizer.vocab_size:,} entries"
        )
    with naming_missing_stores(config, [task.name]):
        return build_in_child_process(task, tokenizer, root)


def trained_groups(streams: Sequence[Stream]) -> list[int]:
    """The groups of problems that streams of codes are trained on, sorted."""
    of_codes = [stream.reader for stream in streams if stream.reader.manifest.part_kinds == CODE_KINDS]
    return sorted({int(n) for reader in of_codes for shard in range(reader.num_shards) for n in reader.groups(shard)})


def _refuse_held_out(streams: Sequence[Stream]) -> None:
    """Raises a UserError if a problem that is for testing only would be trained on."""
    held_out = [number for number in trained_groups(streams) if is_held_out(number)]
    if held_out:
        raise UserError(
            f"{len(held_out)} groups of problems in the data are held out for testing; make the store again from its "
            "source, which leaves them out"
        )


def training_rows(inputs: Inputs, config: DataConfig) -> MixtureRows:
    """The rows of a run; tells of documents that fit none."""
    rows = build_rows(inputs.train, inputs.layout, config.seed)
    for stream in rows.streams:
        if isinstance(stream.plan, PackedRows) and stream.plan.packing.num_too_long:
            count = stream.plan.packing.num_too_long
            say(f"{stream.stream.name}: {count:,} documents longer than {inputs.layout.length} tokens are left out")
    shares = final_shares(inputs.train).items()
    for (name, share), count in zip(shares, rows.mixing.counts[-1], strict=True):
        if share and abs(count / BLOCK / share - 1) > ROUNDING_SAID:
            say_once(
                f"{name}: its rate asks for {share:.3g} of the rows, it gives {count / BLOCK:g}: shares are rounded to "
                f"whole rows of {BLOCK:,}"
            )
    return rows


def batches_from(
    rows: MixtureRows, config: DataConfig, process_index: int, process_count: int
) -> Callable[[int, Iterator[int]], Iterator[Arrays]]:
    """`batches(first_row, batch_sizes)`: this process's part of each training batch."""
    threads = config.threads
    if threads is None:
        is_remote = any(in_bucket(rows_of.stream.reader.folder) for rows_of in rows.streams)
        threads = BUCKET_THREADS if is_remote else THREADS

    def batches(first_row: int, batch_sizes: Iterator[int]) -> Iterator[Arrays]:
        return iterate_batches(rows, first_row, batch_sizes, process_index, process_count, threads)

    return batches


def evaluations_from(
    inputs: Inputs,
    config: DataConfig,
    batch_size: int,
    process_index: int,
    process_count: int,
    absent: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, Callable[[], Iterator[Arrays]]]:
    """By `task/objective`: the fixed validation batches, made anew at each call; `absent` as for them."""

    def make(stream: Stream) -> Callable[[], Iterator[Arrays]]:
        rows = plan_rows(stream, inputs.layout, config.seed)
        return lambda: evaluation_batches(rows, batch_size, config.eval_batches, process_index, process_count, absent)

    return {stream.name: make(stream) for stream in inputs.validation} if config.eval_batches else {}


def final_shares(streams: Sequence[Stream]) -> dict[str, float]:
    """Each stream's share of the rows, by name, after the last point of its schedule."""
    rates = {stream.name: stream.rate[-1][1] if isinstance(stream.rate, tuple) else stream.rate for stream in streams}
    return {name: rate / sum(rates.values()) for name, rate in rates.items()}


def fingerprint(inputs: Inputs, config: DataConfig) -> dict[str, str]:
    """What must be unchanged for a resumed run to see the same rows."""
    return data_fingerprint(inputs.train, inputs.layout, config.seed)


def _streams(
    config: DataConfig, mixture: MixtureDeclaration, stores: dict[str, epath.Path], split: str
) -> tuple[Stream, ...]:
    """One stream per task and objective; its rate is the product of the two."""
    readers = {task.name: TokenStore.open(stores[task.name] / split) for task in mixture.tasks}
    unknown = [name for name, _ in config.task_objectives if name not in readers]
    if unknown:
        raise UserError(f"DataConfig.task_objectives names {unknown[0]}, but the mixture has {', '.join(readers)}")
    return tuple(
        Stream(
            f"{task.name}/{name}",
            task.name,
            readers[task.name],
            objective,
            scaled(rate, share / sum(share for _, share in config.objectives_of(task.name))),
        )
        for task, rate in mixture.rates
        for name, (objective, share) in _named(config.objectives_of(task.name))
        if readers[task.name].manifest.num_tokens
    )


def _named(objectives: ObjectiveShares) -> Iterator[tuple[str, tuple[Objective | PackingObjective, float]]]:
    """Each objective with its share under its name; those of the same name are numbered."""
    names = [objective.name for objective, _ in objectives]
    for number, (name, pair) in enumerate(zip(names, objectives, strict=True)):
        yield (f"{name}_{names[: number + 1].count(name)}" if names.count(name) > 1 else name), pair


def vocabulary_split(inputs: Inputs) -> VocabularySplit | None:
    """What a model has to know of a vocabulary that is split by modality."""
    tables = inputs.layout.modality
    if tables is None:
        return None
    return split_of(tables, ((stream.objective, stream.reader.manifest.modality) for stream in inputs.train))


def pair_layout(inputs: Inputs) -> str | None:
    """The layout of docstring-code pairs, where a recipe trains on them alone."""
    layouts = {s.objective.layout if isinstance(s.objective, TextToCode) else None for s in inputs.train}
    return layouts.pop() if len(layouts) == 1 else None


def description_extra(inputs: Inputs) -> dict[str, dict]:
    """What model.json says of a model's text, beside its config."""
    layout, tables = pair_layout(inputs), inputs.layout.modality
    pairs = {PAIRS: {"layout": layout}} if layout else {}
    prefix_lm = {PREFIX_LM: True} if all(_is_prefix_lm(stream.objective) for stream in inputs.train) else {}
    return pairs | prefix_lm | ({MODALITY: tables.to_json()} if tables else {})


def _is_prefix_lm(objective: Objective | PackingObjective) -> bool:
    """Whether a document's beginning is always read both ways."""
    if isinstance(objective, TextToCode):
        return objective.form == "prefix_code_clm"
    return isinstance(objective, PrefixLM)
