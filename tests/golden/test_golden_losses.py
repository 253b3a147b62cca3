"""Twenty steps of every objective cost what they cost before: whatever is made faster stays what it was."""

import json

import numpy as np
import pytest
from golden_run import LOSSES, ROOT, STEPS, losses_of

GOLDEN = json.loads(LOSSES.read_text())
EVERY_TIME = ("codegen2",)  # the mixture of both classic objectives; the others are slow only by their number
VARIANTS = (  # of an objective that is held beside them, or parts of a mixture that is
    "causal_lm",
    "causal_prefix_lm",
    "codegen2_across_files",
    "corrupt_code_clm",
    "prefix_code_clm",
    "text_code_clm",
    "ntp_plus_contrastive_only",
    "ntp_plus_next_token_only",
    "ntp_plus_without_line_shuffle",
    "t5_corruption",
)


def marks_of(objective: str) -> list[pytest.MarkDecorator]:
    """How often it runs."""
    if objective in EVERY_TIME:
        return []
    return [pytest.mark.soak if objective in VARIANTS else pytest.mark.slow]


@pytest.mark.parametrize("objective", [pytest.param(name, marks=marks_of(name)) for name in GOLDEN])
def test_the_losses_are_those_that_were_committed(objective, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("T5X_CODE_CACHE", str(tmp_path / "cache"))
    losses = losses_of(objective, str(tmp_path / "run"))
    assert len(losses) == STEPS
    np.testing.assert_allclose(losses, GOLDEN[objective], rtol=1e-3)


@pytest.mark.slow
def test_eight_bit_products_change_little_and_are_not_what_is_saved(tmp_path, monkeypatch):
    pytest.importorskip("qwix", reason="the extra quantized is not installed")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("T5X_CODE_CACHE", str(tmp_path / "cache"))
    changes = ["TransformerConfig.quantization='int8'", "TRAIN_STEPS=10"]
    losses = losses_of("codegen2", str(tmp_path / "run"), changes)
    golden = GOLDEN["codegen2"][:10]
    np.testing.assert_allclose(losses, golden, rtol=2e-3)
    assert losses != golden
    assert json.loads((tmp_path / "run/model.json").read_text())["config"]["quantization"] == "none"
