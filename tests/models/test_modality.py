"""A vocabulary split by modality: what the paper's release does, on a tiny trained model and on its golden outputs."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.models.config import TransformerConfig
from t5x_code.models.cross_entropy import cross_entropy
from t5x_code.models.decoder import hidden_states, init_params
from t5x_code.models.modality import VocabularySplit, plain_params, split_config, split_params
from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.objectives.segments import split_ids
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.tokens.modality import ModalityTables, split_vocabulary
from t5x_code.tokens.special_tokens import PairTokens, SpecialTokens
from t5x_code.training.losses import LossConfig, next_token_loss

SPECIAL = SpecialTokens(0, 1, 2, (3,), PairTokens(4, 5, 6, 7, 8, 9, 10))
VOCAB, LENGTH = 60, 40
CONFIG = TransformerConfig(
    num_layers=1,
    model_dim=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=32,
    rotary_dim=4,
    vocab_size=VOCAB,
    max_length=LENGTH,
    dtype="float32",
    initializer_range=0.3,
    vocab_multiple=16,
    tie_embeddings=True,
    head_bias=False,
)
SEPARATIONS = ("partial", "full")
LOSS = LossConfig(z_loss=0.0)


@functools.cache
def tables_of(separation: str) -> ModalityTables | None:
    if separation == "partial":
        return ModalityTables("partial", VOCAB, tuple(range(20, 45, 2)))
    return split_vocabulary(separation, {f"t{i}": i for i in range(VOCAB)}, SPECIAL.all_ids, VOCAB)


@functools.cache
def split_of(tables: ModalityTables, modalities=(0, 1)) -> VocabularySplit:
    return VocabularySplit(tables.base_vocab_size, tables.sources, tables.allowed, modalities)


def random_pairs(seed: int = 0, num_pairs: int = 2) -> tuple[Piece, ...]:
    rng, pieces = np.random.default_rng(seed), []
    for _ in range(num_pairs):
        ends = np.cumsum(rng.integers(2, 6, 3))
        tokens_N = np.append(rng.integers(11, VOCAB, ends[-1]), 0).astype(np.int32)
        pieces.append(Piece(0, tokens_N, True, True, 1, ends, np.arange(3, dtype=np.uint8)))
    return tuple(pieces)


def batch_of(form: str, tables: ModalityTables | None, rows: list[tuple[Piece, ...]]) -> dict[str, np.ndarray]:
    # A table that changes nothing keeps the modality of the targets in the batch.
    layout = Layout(LENGTH, SPECIAL, True, VOCAB, modality=tables or ModalityTables("none", VOCAB, ()))
    objective = TextToCode(form)
    examples = [objective(Row(pieces), layout, np.random.default_rng(0)) for pieces in rows]
    arrays = [split_ids(example, layout.modality).arrays() for example in examples]
    return {name: np.stack([row[name] for row in arrays]) for name in arrays[0]}


@functools.cache
def loss_of(config: TransformerConfig, split: VocabularySplit | None, with_gradient: bool = True):
    """Compiled: the mean loss, with its gradient if asked for."""
    loss = next_token_loss(config, LOSS, make_mesh(MeshConfig(), jax.devices()[:1]), split)

    def mean(params, batch):
        return loss.sums(params, batch)["next_token"] / loss.counts(batch)["next_token"]

    return jax.jit(jax.value_and_grad(mean) if with_gradient else mean)


def mean_loss(config, params, batch, split=None) -> float:
    return float(loss_of(config, split, with_gradient=False)(params, batch))


def only(batch, modality):
    return batch | {"loss_weights": batch["loss_weights"] * (batch["target_modality"] == modality)}


@pytest.fixture(scope="module")
def trained():
    """A base model after some steps on the pairs."""
    batch = batch_of("text_code_clm", None, [random_pairs(seed) for seed in (0, 1)])
    params = jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))
    before = mean_loss(CONFIG, params, batch)
    for _ in range(20):
        _, gradient = loss_of(CONFIG, None)(params, batch)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    assert mean_loss(CONFIG, params, batch) < 0.8 * before
    return params


@pytest.mark.parametrize("separation", SEPARATIONS)
def test_right_after_duplication_the_losses_are_those_of_the_base_model(trained, separation):
    tables, rows = tables_of(separation), [random_pairs(9), random_pairs(10)]
    split = split_of(tables)
    config, params = split_config(CONFIG, split), split_params(CONFIG, trained, tables.sources)
    before, after = batch_of("text_code_clm", None, rows), batch_of("text_code_clm", tables, rows)
    assert (before["inputs"] != after["inputs"]).any()
    for modality in (0, 1):
        base = mean_loss(CONFIG, trained, only(before, modality))
        assert mean_loss(config, params, only(after, modality), split) == pytest.approx(base, abs=1e-6)
        assert mean_loss(config, params, only(after, modality)) > base + 0.05  # all rows compete


@pytest.mark.parametrize("separation", ["full"])
def test_code_targets_alone_need_the_code_rows_alone(trained, separation):
    tables, rows = tables_of(separation), [random_pairs(9), random_pairs(10)]
    config, params = split_config(CONFIG, split_of(tables)), split_params(CONFIG, trained, tables.sources)
    batch = batch_of("code_clm", tables, rows)
    both, code = (loss_of(config, split_of(tables, modalities))(params, batch) for modalities in ((0, 1), (1,)))
    np.testing.assert_allclose(both[0], code[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), both[1], code[1])


@pytest.mark.parametrize("separation", SEPARATIONS)
def test_old_rows_learn_from_text_alone_and_docstring_targets_count_for_nothing(trained, separation):
    tables = tables_of(separation)
    split = split_of(tables, (1,))
    config, params = split_config(CONFIG, split), split_params(CONFIG, trained, tables.sources)
    batch = batch_of("code_clm", tables, [random_pairs(9), random_pairs(10)])
    gradient = loss_of(config, split)(params, batch)[1]["embedding"]["kernel"]
    learned = set(np.flatnonzero(np.abs(gradient).sum(axis=1)).tolist())
    in_text = set(batch["inputs"][batch["segment_ids"] > 0].tolist()) & set(tables.sources)
    assert learned & set(tables.sources) == in_text != set()
    assert learned & set(range(VOCAB, tables.vocab_size))
    changed = batch | {"targets": np.where(batch["loss_weights"] > 0, batch["targets"], 11)}
    assert mean_loss(config, params, changed, split) == mean_loss(config, params, batch, split)


@pytest.mark.parametrize("form", ["text_code_clm", "code_clm", "prefix_code_clm"])
def test_packed_pairs_have_the_losses_of_pairs_alone(trained, form):
    pairs = random_pairs(3, num_pairs=2)
    # A row without pairs keeps the shape of two rows.
    packed, alone = batch_of(form, None, [pairs, ()]), batch_of(form, None, [(pair,) for pair in pairs])
    assert mean_loss(CONFIG, trained, packed) == pytest.approx(mean_loss(CONFIG, trained, alone), abs=1e-5)


def test_a_prefix_is_read_both_ways_and_the_code_is_not(trained):
    batch = batch_of("prefix_code_clm", None, [random_pairs(5, num_pairs=1)])
    python = int(np.flatnonzero(batch["inputs"][0] == SPECIAL.pair.python)[0])

    def states(inputs_1xL):
        reads = (batch[name] for name in ("positions", "attend_from", "attend_to"))
        return np.asarray(compiled_states(CONFIG, trained, inputs_1xL, *reads))[0]

    def change(place):
        inputs_1xL = batch["inputs"].copy()
        inputs_1xL[0, place] = 11 if inputs_1xL[0, place] != 11 else 12
        return np.abs(states(inputs_1xL) - states(batch["inputs"])).max(axis=1)

    assert (change(python - 1)[:python] > 1e-6).all()
    assert not change(python + 2)[: python + 2].any() and change(python + 2)[python + 2]


@pytest.mark.parametrize("separation", SEPARATIONS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_plain_model_of_the_code_rows(separation, tied):
    """Splitting and joining gives the base back; after training, the plain model is the split one on code."""
    config = dataclasses.replace(CONFIG, tie_embeddings=tied, head_bias=not tied)
    params, tables = jax.jit(init_params, static_argnums=0)(config, jax.random.key(1)), tables_of(separation)
    split = split_params(config, params, tables.sources)
    back = plain_params(config, split, VOCAB, tables.sources)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    shapes = jax.eval_shape(lambda key: init_params(split_config(config, split_of(tables)), key), jax.random.key(0))
    assert jax.tree.map(jnp.shape, split) == jax.tree.map(jnp.shape, shapes)
    changed = jax.tree.map(lambda leaf: leaf, split)
    new_rows = np.arange(VOCAB, tables.vocab_size)
    changed["embedding"]["kernel"] = changed["embedding"]["kernel"].at[new_rows].mul(0.5)
    plain = plain_params(config, changed, VOCAB, tables.sources)
    np.testing.assert_array_equal(
        plain["embedding"]["kernel"][np.array(tables.sources)], split["embedding"]["kernel"][new_rows] * 0.5
    )


compiled_states = jax.jit(hidden_states, static_argnums=0)

# The golden ids: 0 padding, 1 <comments>, 2 <python>, 3 end.
GOLDEN_SPECIAL = SpecialTokens(3, 3, 3, (), PairTokens(1, 1, 2, 2, 0, 0, 0))


@pytest.mark.parametrize("separation", ["none", "partial", "full"])
@pytest.mark.parametrize("form", ["text_code_clm", "code_clm", "prefix_code_clm"])
def test_the_releases_losses_of_its_own_logits(shared_data, separation, form):
    """Rows, masks and per-modality softmax against the released code: its pairs, laid out by us, on its logits."""
    folder = shared_data / "golden_models" / f"pangu_{separation}_1"
    golden = np.load(folder / "golden.npz")
    base_vocab = json.loads((folder / "NOTE.json").read_text())["base_vocab"]
    tables = ModalityTables(separation, base_vocab, tuple(golden["replicated"][:, 0].tolist()))
    logits = golden["logits_prefix" if form == "prefix_code_clm" else "logits_causal"]
    layout = Layout(logits.shape[1], GOLDEN_SPECIAL, True, base_vocab, modality=tables)
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
    result = cross_entropy(
        jnp.asarray(np.take_along_axis(logits, np.array(read_from)[..., None], axis=1)),
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
