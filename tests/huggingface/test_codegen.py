"""CodeGen's layouts: mp_num, and the CodeGen2 authors' own code."""

import json

import numpy as np
import pytest
from random_models import our_logits, our_model, random_torch_model, tensors_of

from t5x_code.errors import UserError
from t5x_code.huggingface.codegen import find_mp_num
from t5x_code.huggingface.weights_folder import WeightsFolder


def test_logits_equal_the_authors_code_with_mp_num_8(shared_data):
    folder = shared_data / "golden_models" / "codegen2_mp8_1"
    hf = json.loads((folder / "config.json").read_text()) | {"mp_num": 8}
    golden = np.load(folder / "golden.npz")
    positions = np.broadcast_to(golden["position_ids"], golden["input_ids"].shape)
    rows = {"inputs": golden["input_ids"], "positions": positions}
    rows |= {"attend_from": 0 * positions, "attend_to": positions + 1}
    got = our_logits(*our_model("codegen", hf, WeightsFolder(folder)), rows)
    np.testing.assert_allclose(got, golden["logits"], atol=1e-4)


def test_mp_num_is_found_in_this_order():
    small = {"n_layer": 16, "n_embd": 2048}
    assert find_mp_num({"n_layer": 20, "n_embd": 1024}) == 4
    assert find_mp_num(small) == find_mp_num(small | {"n_embd": 4096}) == 8
    assert find_mp_num(small | {"mp_num": 2}) == 2
    assert find_mp_num(small | {"mp_num": 0}) == 0  # which no checkpoint has


def test_an_mp_num_that_does_not_divide_the_heads_is_refused():
    model = random_torch_model("codegen", 0)
    for mp_num in (7, "four", 0, -1):
        with pytest.raises(UserError, match=rf"mp_num {mp_num} does not divide the \d+ heads"):
            our_model("codegen", model.config.to_dict() | {"mp_num": mp_num}, tensors_of(model))
