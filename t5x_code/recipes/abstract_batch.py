"""The arrays of a recipe's batch as shapes and types, without any data."""

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.objectives.ntp_plus import CODE_KINDS
from t5x_code.parallel.rules import batch_sharding
from t5x_code.recipes.recipe import DataConfig
from t5x_code.tokens.modality import ModalityTables
from t5x_code.tokens.special_tokens import PairTokens, SpecialTokens

SPECIAL_TOKENS = SpecialTokens(eod=0, sep=1, eom=2, masks=(3, 4), pair=PairTokens(*range(5, 12)))
# With the parts of a document of codes, the first three of which pass for those of a docstring-code pair.
PARTS = np.arange(len(CODE_KINDS), dtype=np.uint8)
DOCUMENT = 12 + np.arange(4 * len(PARTS), dtype=np.int32)
VOCAB_SIZE = 12 + len(DOCUMENT)


def abstract_batch(config: DataConfig, batch_size: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a batch by name, as the recipe's objectives set them: each is run on a document of a few tokens.

    Args:
        config: the recipe's data.
        batch_size: rows of the global batch.
        mesh: rows are split over it.
    """
    is_split = config.modality_separation != "none"  # which entries of the vocabulary are doubled shows in no shape
    tables = ModalityTables(config.modality_separation, VOCAB_SIZE, ()) if is_split else None
    layout = Layout(config.length, SPECIAL_TOKENS, config.isolate_documents, VOCAB_SIZE, modality=tables)
    tokens = np.append(DOCUMENT, SPECIAL_TOKENS.eod).astype(np.int32)
    part_ends = 4 * (1 + PARTS.astype(np.int64))
    piece = Piece(SPECIAL_TOKENS.eod, tokens, is_start=True, is_end=True, part_ends=part_ends, part_kinds=PARTS)
    row = Row((piece,))
    arrays: dict[str, np.ndarray] = {}
    for objective in config.every_objective:
        arrays |= objective(row, layout, np.random.default_rng(0)).arrays()
    sharding = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *array.shape), array.dtype, sharding=sharding)
        for name, array in arrays.items()
    }
