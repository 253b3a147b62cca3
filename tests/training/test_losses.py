"""Each named sum against plain NumPy on the model's own logits and states, and the total that is trained on."""

import jax
import numpy as np
import pytest
from code_rows import code_rows

from t5x_code.models.decoder import hidden_states, logits
from t5x_code.models.pooling import pool_codes
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.training.contrastive import contrastive_sums
from t5x_code.training.losses import LossConfig, make_loss


def test_sums_and_total_are_those_of_the_config(tiny_model, tiny_params, one_device):
    config = LossConfig(z_loss=0.01, next_token=2.0, contrastive=0.5, temperature=0.2, pooling="last")
    loss, batch = make_loss(tiny_model, config, one_device), code_rows(0, 4)

    @jax.jit
    def read(params):
        reads = (batch[name] for name in ("inputs", "positions", "attend_from", "attend_to"))
        x_BxLxD = hidden_states(tiny_model, params, *reads)
        codes_BxCxD = pool_codes(x_BxLxD, batch["pool_ids"], batch["code_role"].shape[1], "last")
        of_codes = (batch[f"code_{name}"] for name in ("pair", "problem", "role"))
        pooled = contrastive_sums(codes_BxCxD, *of_codes, temperature=0.2)
        return loss.sums(params, batch), pooled, logits(tiny_model, params, x_BxLxD)

    with logical_axes_on(one_device):
        sums, pooled, logits_BxLxV = jax.device_get(read(tiny_params))
    logits_BxLxV = logits_BxLxV.astype(np.float64)
    logsumexp_BxL = np.log(np.exp(logits_BxLxV).sum(-1))
    targets_BxL, weights_BxL = batch["targets"], batch["loss_weights"]
    target_logit_BxL = np.take_along_axis(logits_BxLxV, targets_BxL[..., None], -1)[..., 0]
    expected = {
        "loss": (weights_BxL * (logsumexp_BxL - target_logit_BxL)).sum(),
        "z_loss": (weights_BxL * 0.01 * logsumexp_BxL**2).sum(),
        "accuracy": (weights_BxL * (logits_BxLxV.argmax(-1) == targets_BxL)).sum(),
        "contrastive": float(pooled["contrastive"]),
        "selected": float(pooled["selected"]),
    }
    expected["next_token"] = expected["loss"] + expected["z_loss"]
    assert sums.keys() == expected.keys() == loss.counts(batch).keys()
    for name, value in expected.items():
        assert float(sums[name]) == pytest.approx(value, rel=1e-4), name
    queries = (batch["code_role"] == 1).sum()
    total = 2 * expected["next_token"] / weights_BxL.sum() + 0.5 * expected["contrastive"] / queries
    assert float(loss.total(sums, loss.counts(batch))) == pytest.approx(total, rel=1e-4)
