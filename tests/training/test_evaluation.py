"""Validation's metrics: over all batches, each token alike, and of nothing that is not there."""

import numpy as np
import pytest

from t5x_code.training.evaluation import evaluate


def test_batches_count_by_their_tokens_and_a_metric_of_nothing_is_left_out(one_device):
    """As the contrastive term of rows without codes."""
    of_batches = iter([(6.0, 2.0), (1.0, 2.0)])

    def eval_step(params, batch):
        loss, count = next(of_batches)
        return {"loss": np.float32(loss), "contrastive": np.float32(0)}, {
            "loss": np.float32(count),
            "contrastive": np.float32(0),
        }

    rows = {"inputs": np.zeros((1, 4), np.int32)}
    found = evaluate(eval_step, None, one_device, {"a/b": lambda: iter([rows, rows])})
    assert found == {"validation/a/b/loss": pytest.approx(7 / 4)}
