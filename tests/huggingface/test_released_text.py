"""Text of released models: laid out, continued and ended as transformers does with their own tokenizer and ids."""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, processors, trainers

from t5x_code.checkpoints.model_directory import read_description, read_model_directory
from t5x_code.huggingface.conversion import export_model, import_model
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import at_strings, complete, left_to_right_prompt
from t5x_code.recipes.text_model import text_model
from t5x_code.tokens.tokenizer import Tokenizer

PROMPT = 'def f(x):\n    """Adds one."""\n'
BODY = "    y = x + 1\n    return y\n"
PROMPTS = (PROMPT, "for i in", "return x", "", "if x:\n", "é = ")
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The folder of a random Llama whose tokenizer.json is laid out as Code Llama's, and transformers' own model."""
    folder = tmp_path_factory.mktemp("llama")
    special = ["<unk>", "<s>", "</s>", "<eot>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    texts = [line.lstrip() for line in (PROMPT + BODY).split("\n")] * 20
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False)
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = description["added_tokens"][:4]  # bytes are text
    (folder / "tokenizer.json").write_text(json.dumps(description))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            max_position_embeddings=128,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=[2, 3],
            pad_token_id=0,
            **sizes,
        )
    ).eval()
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def ours(llama, tmp_path_factory):
    model_dir = str(tmp_path_factory.mktemp("ours") / "model")
    import_model(str(llama[0]), model_dir)
    description, params = read_model_directory(model_dir)
    description = dataclasses.replace(description, config=dataclasses.replace(description.config, dtype="float32"))
    return model_dir, text_model(description, params, Tokenizer.load(f"{model_dir}/tokenizer"))


def test_what_goes_on_behind_a_prompt_keeps_its_first_space(llama):
    tokenizer = Tokenizer.load(str(llama[0]))
    whole, before = tokenizer.encode(PROMPT + BODY), tokenizer.encode(PROMPT)
    np.testing.assert_array_equal(whole[: len(before)], before)
    assert tokenizer.decode_continuation(whole[len(before) :]) == BODY
    np.testing.assert_array_equal(tokenizer.encode_continuation(BODY), whole[len(before) :])
    for text in ("x", " x", "\n", "é", ""):
        assert tokenizer.decode_continuation(tokenizer.encode_continuation(text)) == text
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_prompts_and_answers_are_those_of_transformers(llama, ours):
    folder, theirs = llama
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    _, model = ours
    answers = complete(model, PROMPTS, GenerationConfig(max_new_tokens=NEW_TOKENS))
    for prompt, (answer,) in zip(PROMPTS, answers, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        assert left_to_right_prompt(model, prompt).tolist() == inputs["input_ids"][0].tolist()
        made = theirs.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
        assert list(answer.tokens) == made[inputs["input_ids"].shape[1] :]
    assert model.stop_tokens == (2, 3) and model.begin == (1,)
    (stopped,) = complete(
        model, PROMPTS[1:2], GenerationConfig(max_new_tokens=9), stop=at_strings([answers[1][0].text[:2]])
    )
    assert stopped[0].text == "" and stopped[0].ended_by == "stop_rule"


def test_ids_come_back_as_they_were(llama, ours, tmp_path):
    export_model(ours[0], str(tmp_path / "back"))
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (llama[0], tmp_path / "back"))
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert [after[name] for name in names] == [before[name] for name in names] == [1, [2, 3], 0]
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").generation_config.eos_token_id == [2, 3]


def test_ids_without_a_tokenizer_and_those_of_ordinary_text(llama, tmp_path):
    """CodeGen2.5's folder has no tokenizer.json; CodeGen2's config.json names a word as its end."""
    for name, has_tokenizer, eos in (("none", False, 300), ("word", True, 300)):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "model.safetensors", *(["tokenizer.json"] if has_tokenizer else [])):
            (folder / file).write_bytes((llama[0] / file).read_bytes())
        config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": eos}
        (folder / "config.json").write_text(json.dumps(config))
        import_model(str(folder), str(tmp_path / f"{name}_ours"))
        export_model(str(tmp_path / f"{name}_ours"), str(tmp_path / f"{name}_back"))
        written = json.loads((tmp_path / f"{name}_back/config.json").read_text())
        assert written["eos_token_id"] == (2 if has_tokenizer else 300)
        assert read_description(tmp_path / f"{name}_ours").extra["eos_token_id"] == 300
