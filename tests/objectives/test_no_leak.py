"""Nothing leaks: on a tiny decoder, the hidden state that predicts a target has no gradient from later inputs."""

import jax
import numpy as np
import pytest
from stream_of_rows import rows_of

from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import hidden_states, init_params
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Layout
from t5x_code.objectives.infill import Infill
from t5x_code.objectives.prefix_lm import PrefixLM
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.objectives.ul2 import UL2

LENGTH = 64
CONFIG = TransformerConfig(
    num_layers=2,
    model_dim=8,
    num_heads=1,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=8,
    rotary_dim=4,
    vocab_size=LENGTH,
    max_length=LENGTH,
    dtype="float32",
    initializer_range=0.5,
    vocab_multiple=1,
)
OBJECTIVES = [
    CausalLM(),
    PrefixLM(),
    SpanCorruption(),
    SpanCorruption(across_files=True),
    Infill(rate=1.0),
    Infill(rate=1.0, spm_rate=1.0, sentinels="starcoder"),
    UL2(),
    *(TextToCode(form) for form in ("text_code_clm", "code_clm", "corrupt_code_clm", "prefix_code_clm")),
]


@pytest.fixture(scope="module")
def influence():
    """(example) -> [L, L]: how much each place's state changes with each place's input."""
    params = jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))

    @jax.jit
    def jacobian(positions_L, attend_from_L, attend_to_L):
        def states(kernel_LxD):  # every place reads a token of its own, so that a row of the kernel is an input
            changed = params | {"embedding": {"kernel": kernel_LxD}}
            ids_1xL = jax.numpy.arange(LENGTH)[None]
            x_1xLxD = hidden_states(CONFIG, changed, ids_1xL, positions_L[None], attend_from_L[None], attend_to_L[None])
            return x_1xLxD[0] @ jax.numpy.arange(1.0, 9.0)

        return jax.numpy.abs(jax.jacrev(states)(params["embedding"]["kernel"])).sum(-1)

    return lambda example: np.asarray(jacobian(example.positions_L, example.attend_from_L, example.attend_to_L))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_a_target_does_not_depend_on_later_inputs(objective, influence, documents, pair_rows, layout):
    short = Layout(LENGTH, layout.special_tokens, True, layout.vocab_size, layout.characters)
    if isinstance(objective, TextToCode):
        small = [piece for row in pair_rows for piece in row.pieces if len(piece.tokens_N) < LENGTH - 2][:6]
        rows = [type(pair_rows[0])((piece,)) for piece in small]
    else:
        rows = rows_of([document for document in documents if 4 < len(document) < 40], 40, layout.special_tokens.eod, 6)
    looked_on = 0
    for number, row in enumerate(rows):
        example = objective(row, short, np.random.default_rng(number))
        changes_LxL = influence(example)
        for i in np.flatnonzero(example.loss_weights_L):
            assert not changes_LxL[i, i + 1 :].any()
            assert changes_LxL[i, i] > 0
            other_L = example.segment_ids_L != example.segment_ids_L[i]
            assert not changes_LxL[i, other_L].any()
        for i in np.flatnonzero((example.loss_weights_L == 0) & (example.segment_ids_L > 0)):
            end = example.attend_to_L[i]
            assert not changes_LxL[i, end:].any()
            looked_on += changes_LxL[i, i + 1 : end].any()
    has_prefix = isinstance(objective, PrefixLM | UL2) or objective.name == "prefix_code_clm"
    assert bool(looked_on) == has_prefix
