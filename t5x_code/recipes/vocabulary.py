"""The vocabulary of a recipe: its tokenizer, found or trained, and how it is split by modality.

Training needs it to make rows; the ahead-of-time compiler and `--dry_run` need no more of the data than this, as the
size of a split model follows from it.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import jax
from etils import epath

from t5x_code.buckets import in_bucket
from t5x_code.data.caching.build import TOKENIZER_FOLDER
from t5x_code.data.caching.embedded_tokenizer import (
    VOCAB_SIZE,
    embedded_tokenizer,
    embedded_tokenizer_folder,
    fitted,
)
from t5x_code.data.declarations import MixtureDeclaration
from t5x_code.errors import UserError
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import count_params
from t5x_code.models.modality import VocabularySplit, split_config
from t5x_code.objectives.example import Objective, PackingObjective
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.parallel.hosts import is_writer
from t5x_code.recipes.mixture import falls_back, is_embedded, resolve_mixture, stores_root
from t5x_code.recipes.recipe import DataConfig, Recipe
from t5x_code.terminal import say
from t5x_code.tokens.modality import ModalityTables, split_vocabulary
from t5x_code.tokens.tokenizer import TOKENIZER_FILE, Tokenizer

PYTHON_WORDS_FOLDER = "python_words"  # under the folder of stores
TrainsOn = Literal["anything", "embedded", "nothing"]  # what a missing tokenizer may be trained on


class NoTokenizer(UserError):
    """A recipe's tokenizer would have to be trained on its corpus first."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a recipe's tokens are."""

    mixture: MixtureDeclaration
    root: epath.Path  # folder of the token stores that are made with this tokenizer
    tokenizer: Tokenizer
    folder: str  # or hub name of the tokenizer, before Python's words are added
    tables: ModalityTables | None  # where it is split by modality
    tokenizer_flags: tuple[str, ...]  # of `cache.py`, that make the stores again


def find_vocabulary(config: DataConfig, vocab_size: int, trains_on: TrainsOn = "anything") -> Vocabulary:
    """A recipe's tokenizer, with all tokens that its tasks and its separation need.

    Args:
        config: the recipe's data.
        vocab_size: of the unsplit model.
        trains_on: the corpora that a tokenizer is trained on where the recipe has none; the embedded one takes seconds,
            another may take hours.

    Raises:
        UserError: unknown mixture, or a tokenizer that is larger than the model's vocabulary.
        NoTokenizer: there is none, and it is not to be trained.
    """
    mixture, root = resolve_mixture(config), stores_root(config)
    folder = _tokenizer_folder(config, mixture, root, trains_on)
    tokenizer = given = fitted(Tokenizer.load(folder), mixture.tasks)
    if config.stores is None and _named_tokenizer(config) is not None:  # the cache is shared with runs of other ones
        root /= f"tokenizer-{tokenizer.fingerprint[:12]}"
    if config.modality_separation == "partial":
        tokenizer, root = _with_python_words(tokenizer, root)
    flags = (f"--tokenizer={folder}", *(("--python_words",) if tokenizer is not given else ()))
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer {folder} has {tokenizer.vocab_size} tokens but the model's vocabulary is {vocab_size}; "
            f"set TransformerConfig.vocab_size={tokenizer.vocab_size} or another TOKENIZER"
        )
    tables = split_vocabulary(
        config.modality_separation, tokenizer.vocabulary(), tokenizer.special_tokens.all_ids, vocab_size
    )
    return Vocabulary(mixture, root, tokenizer, folder, tables, flags)


def split_without_data(
    config: DataConfig, model: TransformerConfig, trains_on: TrainsOn
) -> tuple[TransformerConfig, VocabularySplit | None]:
    """The model that a recipe trains, with the rows that a split adds, and the split. Reads and makes no token store.

    Raises:
        UserError: as `find_vocabulary`, where the vocabulary is split.
    """
    if config.modality_separation == "none":
        return model, None
    vocabulary = find_vocabulary(config, model.vocab_size, trains_on)
    tasks = vocabulary.mixture.tasks
    targets = [(objective, task.modality) for task in tasks for objective, _ in config.objectives_of(task.name)]
    split = split_of(vocabulary.tables, targets)
    return split_config(model, split), split


def num_tokens_without_data(config: DataConfig) -> int | None:
    """Entries of a recipe's tokenizer, or of the one that will be trained; None where a bucket, a hub or data that is
    not given yet would tell."""
    root = stores_root(config)
    if in_bucket(root) or falls_back(config):
        return None
    mixture = resolve_mixture(config)
    folder = _given_tokenizer(config, mixture, root)
    if folder is None:
        return VOCAB_SIZE
    return fitted(Tokenizer.load(folder), mixture.tasks).vocab_size if Path(folder).is_dir() else None


def describe_unused_rows(recipe: Recipe, num_tokens: int | None) -> str | None:
    """What to set where more than an eighth of the vocabulary's rows are of no token, unless the model is given."""
    model = recipe.model
    if recipe.initialize_from is not None or num_tokens is None or num_tokens >= model.vocab_size * 7 / 8:
        return None
    smaller = dataclasses.replace(model, vocab_size=num_tokens)
    saved = count_params(model) - count_params(smaller)
    return (
        f"only {num_tokens:,} of the vocabulary's {model.vocab_size:,} rows have a token; "
        f"set TransformerConfig.vocab_size={num_tokens} to save {saved / 1e6:.1f} M parameters"
    )


def split_of(tables: ModalityTables, targets: Iterable[tuple[Objective | PackingObjective, int]]) -> VocabularySplit:
    """What a model has to know of a split vocabulary.

    Args:
        tables: the split.
        targets: each objective that is trained, with the modality of the task's documents.
    """
    modalities = {modality for objective, of_task in targets for modality in _target_modalities(objective, of_task)}
    return VocabularySplit(tables.base_vocab_size, tables.sources, tables.allowed, tuple(sorted(modalities)))


def _target_modalities(objective: Objective | PackingObjective, of_task: int) -> tuple[int, ...]:
    """The modalities of an objective's targets: of the pairs' objectives their own, else the task's."""
    return objective.target_modalities if isinstance(objective, TextToCode) else (of_task,)


def _tokenizer_folder(config: DataConfig, mixture: MixtureDeclaration, root: epath.Path, trains_on: TrainsOn) -> str:
    """The recipe's tokenizer; else the one that came with a store, or with the model that it starts from; else one that
    is trained on the corpus now."""
    given = _given_tokenizer(config, mixture, root)
    if given is not None:
        return given
    trains = trains_on == "anything" or (
        trains_on == "embedded" and all(is_embedded(task.source.kind) for task in mixture.tasks)
    )
    kept = _was_trained(mixture, root)
    if not kept and not trains:
        raise NoTokenizer(
            f"the mixture {mixture.name} has no tokenizer yet, and training would make one of its documents first; "
            "name one by --gin.TOKENIZER=\"'FOLDER or hub name'\", or make the stores with launch/cache.py"
        )
    with naming_missing_stores(config, [task.name for task in mixture.tasks]):
        if not kept:
            embedded_tokenizer_folder(root, mixture.tasks)  # raises where there is no corpus, before one is promised
            say_once(f"no store in {root} brings a tokenizer: training one on the mixture {mixture.name}")
        return str(embedded_tokenizer(root, mixture.tasks))


def _given_tokenizer(config: DataConfig, mixture: MixtureDeclaration, root: epath.Path) -> str | None:
    named = _named_tokenizer(config)
    if named is not None and (config.tokenizer is not None or config.stores is None):
        return named
    with_stores = [root / task.name / TOKENIZER_FOLDER for task in mixture.tasks]
    return next((str(folder) for folder in with_stores if folder.exists()), named)


def _named_tokenizer(config: DataConfig) -> str | None:
    """The recipe's, else that of the model that it starts from; stores in DATA that bring one go before the latter."""
    if config.tokenizer is not None or config.initialize_from is None:
        return config.tokenizer
    of_model = epath.Path(config.initialize_from) / TOKENIZER_FOLDER
    return str(of_model) if (of_model / TOKENIZER_FILE).exists() else None


def say_once(text: str) -> None:
    """One line on the terminal, of the first process where a run has many."""
    # In a single process `is_writer` would initialise the devices, which the example viewer has no need of.
    if not jax.distributed.is_initialized() or is_writer():
        say(text)


@contextlib.contextmanager
def naming_missing_stores(config: DataConfig, names: Sequence[str]) -> Iterator[None]:
    """Adds DATA, if it is given, to the message of an error in making missing stores: the folder may be mistyped."""
    try:
        yield
    except UserError as error:
        if config.stores is None:
            raise
        missing = " or ".join(names)
        raise UserError(f"DATA={config.stores} holds no store {missing}, and none can be made: {error}") from error


def _was_trained(mixture: MixtureDeclaration, root: epath.Path) -> bool:
    """Whether a tokenizer of the corpus is kept here; not where the corpus is on another machine."""
    try:
        return (embedded_tokenizer_folder(root, mixture.tasks) / TOKENIZER_FILE).exists()
    except UserError:
        return False


def _with_python_words(tokenizer: Tokenizer, root: epath.Path) -> tuple[Tokenizer, epath.Path]:
    """A tokenizer that holds Python's words, and where its stores lie: beside those of the tokenizer without them."""
    extended = tokenizer.with_python_words()
    if extended is tokenizer:
        return tokenizer, root
    root /= PYTHON_WORDS_FOLDER
    added = extended.vocab_size - tokenizer.vocab_size
    say(f"the tokenizer is given the {added} forms of Python's words that it lacks; its token stores lie in {root}")
    return extended, root
