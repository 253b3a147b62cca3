"""Greedy decoding with our cache, token for token against transformers' `generate` or plain NumPy."""

import numpy as np
import pytest
import torch
from numpy_decoder import codegen_logits, pangu_logits
from random_models import our_model, random_hf_config, random_tensors, random_torch_model, tensors_of

from t5x_code.inference.generation import GenerationConfig, generate
from t5x_code.models.few_rows import decoding_params

NUM_PROMPTS, LONGEST, NEW_TOKENS = 20, 14, 10
TIED = 1e-4  # two best logits closer than this may change places
IN_DEFAULT_RUN = ("gpt_neo", "pangu_alpha")
WITH_CLASS = ("codegen", "llama", "qwen2", "gpt_bigcode", "starcoder2", "gpt_neo")


def by_run(names):
    return [pytest.param(name, marks=[] if name in IN_DEFAULT_RUN else pytest.mark.slow) for name in names]


def random_prompts(vocab_size):
    rng = np.random.default_rng(0)
    return [rng.integers(0, vocab_size, rng.integers(1, LONGEST + 1)) for _ in range(NUM_PROMPTS)]


def our_continuations(config, params, prompts):
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS, batch_size=NUM_PROMPTS)
    return [samples[0] for samples in generate(config, decoding_params(config, params), prompts, generation)]


def assert_same_until_tied(ours, theirs, logits):
    """`logits` [NEW_TOKENS, V] are those that their tokens were chosen by."""
    best = np.sort(logits, axis=-1)
    tied = np.flatnonzero(best[:, -1] - best[:, -2] < TIED)
    upto = tied[0] if len(tied) else NEW_TOKENS
    assert ours[:upto] == list(theirs[:upto])
    return upto


@pytest.mark.parametrize("family", by_run(WITH_CLASS))
def test_greedy_tokens_equal_transformers(family):
    model = random_torch_model(family, 1)
    prompts = random_prompts(model.config.vocab_size)
    ours = our_continuations(*our_model(family, model.config.to_dict(), tensors_of(model)), prompts)
    padded = np.zeros((NUM_PROMPTS, LONGEST), np.int64)
    mask = np.zeros_like(padded)
    for row, prompt in enumerate(prompts):
        padded[row, LONGEST - len(prompt) :] = prompt
        mask[row, LONGEST - len(prompt) :] = 1
    model.generation_config.eos_token_id = None
    made = model.generate(
        torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    theirs = made.sequences[:, LONGEST:].tolist()
    logits_NxBxV = torch.stack(made.logits).float().numpy()
    checked = [assert_same_until_tied(ours[row], theirs[row], logits_NxBxV[:, row]) for row in range(NUM_PROMPTS)]
    assert sum(checked) > 0.9 * NUM_PROMPTS * NEW_TOKENS


@pytest.mark.parametrize("kind", by_run(("pangu_alpha", "codegen_mp8")))
def test_greedy_tokens_equal_plain_numpy(kind):
    family = kind.removesuffix("_mp8")
    reference = {"pangu_alpha": pangu_logits, "codegen_mp8": codegen_logits}[kind]
    hf = random_hf_config(kind, 1) | {"model_type": family} | ({"mp_num": 8} if kind == "codegen_mp8" else {})
    tensors = random_tensors(family, hf, 1)
    prompts = random_prompts(hf["vocab_size"])
    ours = our_continuations(*our_model(family, hf, tensors), prompts)
    checked = 0
    for row, prompt in enumerate(prompts):
        # The reference reads prompt and continuation at once; each of our tokens has to be the best where it stands.
        ids = np.concatenate([prompt, ours[row]])
        sees = np.tri(len(ids), dtype=bool)
        logits = reference(hf, tensors, ids, np.arange(len(ids)), sees)[len(prompt) - 1 : -1]
        checked += assert_same_until_tied(ours[row], logits.argmax(-1), logits)
    assert checked > 0.9 * NUM_PROMPTS * NEW_TOKENS
