"""A model of bytes, requests to evaluate it on HumanEval, and sandboxes."""

import pytest
from byte_model import SAMPLED, byte_model

from t5x_code.evaluation.request import Request, Sampled
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.evaluation.sandbox.pool import SandboxPool

ALLOWED = Execution(allowed=True, allowed_without_isolation=True, workers=2)


@pytest.fixture(scope="module")
def model():
    return byte_model()


@pytest.fixture(scope="module")
def pool():
    execution = Execution(allowed=True, allowed_without_isolation=True, workers=8)
    with SandboxPool(execution) as pool:
        yield pool


@pytest.fixture
def request_for(model, tmp_path):
    def make(**changes):
        kept = str(tmp_path / "r.samples.jsonl")
        sampled = Sampled() if "samples" in changes else SAMPLED
        fields = {"model": model, "keep_samples": kept, "sampled": sampled, "execution": ALLOWED, "limit": 6}
        return Request("humaneval", show_progress=False, **(fields | changes))

    return make
