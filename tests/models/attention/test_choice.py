"""What is chosen where, and the reasons that are given for a refusal."""

import dataclasses

import pytest

from t5x_code.errors import UserError
from t5x_code.models.attention import choice
from t5x_code.models.attention.choice import AttentionCase, choose

TPU = AttentionCase("tpu", "TPU v5 lite", 2048, 2048, 128, "bfloat16", True)
H100 = AttentionCase("gpu", "NVIDIA H100 80GB HBM3", 2048, 2048, 128, "bfloat16", True)
CPU = AttentionCase("cpu", "cpu", 2048, 2048, 128, "bfloat16", True)


@pytest.mark.parametrize(
    ("case", "changes", "chosen"),
    [
        (TPU, {}, "splash"),
        (TPU, {"queries": 512}, "splash"),
        (TPU, {"queries": 100, "keys": 100}, "dense"),
        (TPU, {"queries": 65536, "keys": 65536}, "chunked"),
        (TPU, {"queries": 1}, "dense"),
        (H100, {}, "tokamax"),
        (H100, {"device_kind": "NVIDIA A100-SXM4-80GB"}, "cudnn"),
        (H100, {"device_kind": "NVIDIA A100-SXM4-80GB", "queries": 32768, "keys": 32768}, "chunked"),
        (H100, {"dtype": "float32"}, "chunked"),
        (H100, {"is_attached": False}, "chunked"),
        (CPU, {}, "by_head"),
        (CPU, {"queries": 256, "keys": 256}, "by_head"),
        (CPU, {"queries": 1, "keys": 65536}, "dense"),
        (CPU, {"queries": 128, "keys": 2048}, "by_head"),
        (TPU, {"queries": 200, "keys": 200}, "dense"),
        (CPU, {"queries": 128, "keys": 128}, "dense"),
    ],
)
def test_the_fastest_that_can(monkeypatch, case, changes, chosen):
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: object())
    assert choose("auto", dataclasses.replace(case, **changes)) == chosen


def test_without_tokamax_cudnn_is_next(monkeypatch):
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert choose("auto", H100) == "cudnn"
    with pytest.raises(UserError, match="needs the package tokamax"):
        choose("tokamax", H100)


@pytest.mark.parametrize(
    ("name", "case", "changes", "reason"),
    [
        ("splash", CPU, {}, "is a kernel for TPUs; this is a cpu; set it to 'auto'"),
        ("splash", TPU, {"queries": 100}, "takes lengths divisible by 128, not 100 queries"),
        ("splash", TPU, {"keys": 65536}, "at most 32768 tokens"),
        ("tokamax", TPU, {}, "NVIDIA Hopper"),
        ("cudnn", CPU, {}, "for NVIDIA GPUs"),
        ("cudnn", H100, {"dtype": "float32"}, "takes bfloat16, not float32"),
        ("cudnn_causal", H100, {"head_dim": 320}, "at most 256 dimensions"),
        ("cudnn_causal", H100, {"queries": 1024}, "takes whole rows, not 1024 queries of 2048"),
        ("magic", CPU, {}, "choose one of auto, splash, tokamax, cudnn, dense, by_head, chunked, cudnn_causal"),
    ],
)
def test_the_impossible_is_refused_with_the_reason(name, case, changes, reason):
    with pytest.raises(UserError, match=reason):
        choose(name, dataclasses.replace(case, **changes))
