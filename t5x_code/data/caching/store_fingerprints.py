"""What a token store was made of, as a few hashes: if they are equal, making it again would give the same tokens, but
for documents that are dropped because a benchmark is at hand whose answers they hold."""

import contextlib
import dataclasses

from t5x_code.data.declarations import TaskDeclaration
from t5x_code.data.manifest import FORMAT_VERSION, Manifest, fingerprint_of
from t5x_code.data.sources.source import source_fingerprint, source_kind
from t5x_code.errors import UserError
from t5x_code.tokens.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class StoreFingerprints:
    """One hash per thing that can change."""

    source: str
    preprocessors: str
    split: str
    tokenizer: str

    @property
    def whole(self) -> str:
        """All of them, and the format, in one."""
        return fingerprint_of([FORMAT_VERSION, *dataclasses.astuple(self)])


def store_fingerprints(task: TaskDeclaration, tokenizer: Tokenizer, source: str | None = None) -> StoreFingerprints:
    """Fingerprints of the store that would be made now; `source` is its source's when that is known already."""
    return StoreFingerprints(
        source=source_fingerprint(task.source) if source is None else source,
        preprocessors=fingerprint_of(
            [[*source_kind(task.source).transformations, *task.preprocessors], task.text_field]
        ),
        split=fingerprint_of([task.store_seed, task.validation_fraction]),
        tokenizer=tokenizer.fingerprint,
    )


def what_changed(
    manifest: Manifest, task: TaskDeclaration, tokenizer: Tokenizer, compare_source: bool = True
) -> list[str]:
    """Names what differs between a store and what its task would give now; empty when the store fits.

    A source that is not on this machine is taken to be as it was: a finished store trains without it. So is one whose
    state only TensorFlow can tell: training does not import it.
    """
    source = manifest.source_fingerprint
    if compare_source and not source_kind(task.source).state_needs_tensorflow:
        with contextlib.suppress(UserError):
            source = source_fingerprint(task.source)
    now = store_fingerprints(task, tokenizer, source)
    pairs = {
        "the source's files": (manifest.source_fingerprint, now.source),
        "the preprocessors or the source's transformations": (manifest.preprocessors_fingerprint, now.preprocessors),
        "the store seed or validation fraction": (manifest.split_fingerprint, now.split),
        "the tokenizer": (manifest.tokenizer_fingerprint, now.tokenizer),
    }
    return [name for name, (before, after) in pairs.items() if before != after]
