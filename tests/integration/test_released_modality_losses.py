"""The losses that the authors' released code has on packed pairs: our rows, masks and softmax, on its logits."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.models.cross_entropy import cross_entropy
from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.objectives.segments import split_ids
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.tokens.modality import ModalityTables
from t5x_code.tokens.special_tokens import PairTokens, SpecialTokens

# The golden ids: 0 padding, 1 <comments>, 2 <python>, 3 end.
GOLDEN_SPECIAL = SpecialTokens(3, 3, 3, (), PairTokens(1, 1, 2, 2, 0, 0, 0))


SEPARATIONS = ("none", "partial", "full")


def golden_batch(folder, separation: str, form: str):
    """The release's pairs as our rows: the batch, its place in the release's rows [B, L], tables and golden arrays."""
    golden = np.load(folder / "golden.npz")
    base_vocab = json.loads((folder / "NOTE.json").read_text())["base_vocab"]
    tables = ModalityTables(separation, base_vocab, tuple(golden["replicated"][:, 0].tolist()))
    layout = Layout(golden["input_ids"].shape[1], GOLDEN_SPECIAL, True, base_vocab, modality=tables)
    base_ids, examples, read_from = tables.base_ids[golden["input_ids"]], [], []
    for ids_L, segments_L in zip(base_ids, golden["segment_ids"], strict=True):
        pieces, places = [], []
        for segment in range(1, segments_L.max() + 1):
            (inside,) = np.nonzero(segments_L == segment)
            python = int(np.flatnonzero(ids_L[inside] == 2)[0])
            tokens_N = np.delete(ids_L[inside], [0, python]).astype(np.int32)
            ends = np.array([python - 1, python, len(tokens_N) - 1])
            pieces.append(Piece(3, tokens_N, True, True, 1, ends, np.arange(3, dtype=np.uint8)))
            places += inside[:-1].tolist()
        example = split_ids(TextToCode(form)(Row(tuple(pieces)), layout, np.random.default_rng(0)), tables)
        examples.append(example.arrays())
        read_from.append(places + [0] * (layout.length - len(places)))
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    used = batch["segment_ids"] > 0
    theirs = np.take_along_axis(golden["input_ids"], np.array(read_from), axis=1)
    np.testing.assert_array_equal(batch["inputs"][used], theirs[used])
    return batch, np.array(read_from), tables, golden


@pytest.mark.parametrize("separation", SEPARATIONS)
@pytest.mark.parametrize("form", ["text_code_clm", "code_clm", "prefix_code_clm"])
def test_the_losses_of_the_releases_own_logits(shared_data, separation, form):
    folder = shared_data / "golden_models" / f"pangu_{separation}_1"
    batch, read_from, tables, golden = golden_batch(folder, separation, form)
    logits = golden["logits_prefix" if form == "prefix_code_clm" else "logits_causal"]
    result = cross_entropy(
        jnp.asarray(np.take_along_axis(logits, read_from[..., None], axis=1)),
        jnp.eye(tables.vocab_size),
        jnp.zeros(tables.vocab_size),
        batch["targets"],
        batch["loss_weights"],
        vocab_size=tables.vocab_size,
        chunk=16,
        allowed_2xV=jnp.asarray(tables.allowed),
        modality_BxL=batch["target_modality"],
    )
    total, count = float(result.total), float(result.weight)
    if form == "text_code_clm":  # the release also predicts a packed pair's first token from the pair before
        row = np.where(tables.allowed[0], logits[0, 13], -np.inf)
        total += np.log(np.exp(row).sum()) - row[golden["input_ids"][0, 14]]
        count += 1
    assert total / count == pytest.approx(float(golden[f"loss_{form}"]), abs=1e-5)
