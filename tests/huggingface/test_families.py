"""Every family's logits, against transformers' own classes and, where it has none, plain NumPy."""

import numpy as np
import pytest
import torch
from numpy_decoder import codegen_logits, pangu_logits
from random_models import (
    CLASSES,
    numpy_of,
    our_logits,
    our_model,
    random_hf_config,
    random_rows,
    random_tensors,
    random_torch_model,
    tensors_of,
)

IN_DEFAULT_RUN, IN_SOAK = 3, 20


def seeds(first: int, last: int, *marks):
    return [pytest.param(seed, marks=marks) for seed in range(first, last)]


SEEDS = [*seeds(0, IN_DEFAULT_RUN), *seeds(IN_DEFAULT_RUN, IN_SOAK, pytest.mark.soak)]
BFLOAT16_IN_DEFAULT_RUN = ("codegen", "llama", "gpt_neo")
BFLOAT16_CASES = [
    pytest.param(family, 0, marks=[] if family in BFLOAT16_IN_DEFAULT_RUN else pytest.mark.slow) for family in CLASSES
] + [pytest.param(family, seed, marks=pytest.mark.soak) for family in CLASSES for seed in range(1, IN_SOAK)]


def torch_logits(model, inputs, **arrays):
    with torch.no_grad():
        arrays = {name: torch.tensor(array) for name, array in arrays.items()}
        return numpy_of(model(torch.tensor(inputs), **arrays).logits)


def compare_with_torch(family, seed, assert_close, dtype):
    model = random_torch_model(family, seed).to(getattr(torch, dtype))
    rows, texts = random_rows(model.config.vocab_size, seed)
    got = our_logits(*our_model(family, model.config.to_dict(), tensors_of(model), dtype), rows)
    # Rows 0 and 1 together, the second padded on the left, as transformers batches prompts.
    real = np.zeros_like(rows["inputs"])
    for row, start, end in texts:
        real[row, start:end] = 1
    want = torch_logits(model, rows["inputs"][:2], attention_mask=real[:2], position_ids=rows["positions"][:2])
    assert_close(got[:2][real[:2] > 0], want[real[:2] > 0])
    # Row 2 holds several texts; transformers reads one by one.
    for row, start, end in texts[2:]:
        assert_close(got[row, start:end], torch_logits(model, rows["inputs"][row : row + 1, start:end])[0])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", CLASSES)
def test_float32_logits_equal_transformers(family, seed):
    def assert_close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)

    compare_with_torch(family, seed, assert_close, "float32")


@pytest.mark.parametrize(("family", "seed"), BFLOAT16_CASES)
def test_bfloat16_logits_equal_transformers(family, seed):
    def assert_close(ours, theirs):
        theirs = theirs.astype(np.float32)
        assert np.linalg.norm(ours - theirs) <= 2e-2 * np.linalg.norm(theirs)

    compare_with_torch(family, seed, assert_close, "bfloat16")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kind", "reference"), [("pangu_alpha", pangu_logits), ("codegen_mp8", codegen_logits)])
def test_logits_equal_plain_numpy(kind, reference, seed):
    family = kind.removesuffix("_mp8")
    hf = random_hf_config(kind, seed) | {"model_type": family}
    hf |= {"mp_num": 8} if kind == "codegen_mp8" else {}
    tensors = random_tensors(family, hf, seed)
    rows, texts = random_rows(hf["vocab_size"], seed)
    prefix_end = texts[0][2] // 2  # the first row's first half sees all of itself, as in a prefix language model
    rows["attend_to"][0, :prefix_end] = prefix_end
    got = our_logits(*our_model(family, hf, tensors), rows)
    keys = np.arange(rows["inputs"].shape[1])
    for row in range(len(rows["inputs"])):
        sees = (keys >= rows["attend_from"][row, :, None]) & (keys < rows["attend_to"][row, :, None])
        real = np.flatnonzero(sees.any(-1))
        inputs, positions = rows["inputs"][row, real], rows["positions"][row, real]
        want = reference(hf, tensors, inputs, positions, sees[np.ix_(real, real)])
        np.testing.assert_allclose(got[row, real], want, atol=1e-4, rtol=0)
