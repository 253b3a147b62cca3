"""The tokenizer of a Hugging Face folder: it fits its model, and prompts are led there and back by the same token."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
import transformers
from random_models import random_hf_config, save_tokenizer

from t5x_code.checkpoints.model_directory import (
    ModelDescription,
    read_description,
    write_model_directory,
)
from t5x_code.errors import UserError
from t5x_code.huggingface.conversion import export_model, import_model
from t5x_code.huggingface.families import FAMILIES
from t5x_code.huggingface.family import read_config
from t5x_code.inference.infilling import left_to_right_prompt
from t5x_code.models.decoder import init_params
from t5x_code.recipes.text_model import text_model
from t5x_code.tokens.special_tokens import EOD_TEXT, EOM_TEXT, SEP_TEXT, mask_text
from t5x_code.tokens.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("special", "words", "fits"),
    [
        (["<one>", "<two>"], [], True),  # as in a folder of Code Llama 34B: no text becomes one
        ([SEP_TEXT, EOM_TEXT, mask_text(1)], [], False),  # infilling would write them
        ([], ["word"], False),
    ],
)
def test_a_tokenizer_may_have_more_control_tokens_than_its_model(hf_folder, tmp_path, special, words, fits):
    save_tokenizer(tmp_path, [EOD_TEXT])
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_tokens([f"filler{n}" for n in range(43)])  # up to the model's 300
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(words)
    source = shutil.copytree(hf_folder, tmp_path / "source")
    tokenizer.save(str(source / "tokenizer.json"))
    if fits:
        assert import_model(str(source), str(tmp_path / "ours")).config.vocab_size == 300
        return
    with pytest.raises(UserError, match="they do not belong together"):
        import_model(str(source), str(tmp_path / "ours"))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(hf_folder, tmp_path):
    folder = Path(shutil.copytree(hf_folder, tmp_path / "model"))
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"vocab_size": 260}))
    with pytest.raises(UserError, match=r"has 261 tokens, its config\.json says vocab_size 260; they do not belong"):
        import_model(str(folder), str(tmp_path / "imported"))


def test_a_chat_template_in_a_file_of_its_own_survives_the_way_there_and_back(hf_folder, tmp_path):
    source = Path(shutil.copytree(hf_folder, tmp_path / "source"))
    (source / "chat_template.jinja").write_text("{{ messages[0].content }}\n")
    import_model(str(source), str(tmp_path / "ours"))
    export_model(str(tmp_path / "ours"), str(tmp_path / "back"))
    assert (tmp_path / "back/chat_template.jinja").read_bytes() == (source / "chat_template.jinja").read_bytes()


OFFSETS = tokenizers.processors.ByteLevel(trim_offsets=True)
OTHER_LEAD = tokenizers.processors.TemplateProcessing(
    single=f"{SEP_TEXT} $A {EOM_TEXT}", special_tokens=[(SEP_TEXT, 257), (EOM_TEXT, 258)]
)


@pytest.mark.parametrize("family", ["codegen", "llama"])
@pytest.mark.parametrize(
    ("before", "kinds"),
    [
        (None, ["TemplateProcessing"]),
        (OFFSETS, ["ByteLevel", "TemplateProcessing"]),
        (OTHER_LEAD, ["TemplateProcessing"]),
        (tokenizers.processors.Sequence([OFFSETS, OTHER_LEAD]), ["ByteLevel", "TemplateProcessing"]),
    ],
)
def test_prompts_are_led_by_the_same_token_after_export(family, before, kinds, tmp_path):
    """A run's documents begin with the end of the one before: so do prompts here, in transformers and after import."""
    own, exported = tmp_path / "own", tmp_path / "exported"
    save_tokenizer(tmp_path, [EOD_TEXT, SEP_TEXT, EOM_TEXT, mask_text(1), mask_text(2)])
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    if before is not None:
        plain.post_processor = before
    Tokenizer.from_json(plain.to_str(), "the test").save(tmp_path / "tokenizer")
    hf = random_hf_config(family, 0) | {"model_type": family, "vocab_size": 261}
    config = read_config(FAMILIES[family], hf)
    params = init_params(config, jax.random.key(0))
    write_model_directory(own, ModelDescription(config), params, tmp_path / "tokenizer")
    export_model(str(own), str(exported))
    import_model(str(exported), str(tmp_path / "again"))

    models = []
    for folder in (own, tmp_path / "again"):
        description = read_description(folder)
        models.append(text_model(description, None, Tokenizer.load(str(folder / "tokenizer"))))
    written = transformers.AutoTokenizer.from_pretrained(exported)
    for text in ("x = 1\n", " y", "", f"'{EOD_TEXT}'"):
        first, second = (left_to_right_prompt(model, text).tolist() for model in models)
        assert first == second and first[0] == 256
        np.testing.assert_array_equal(*(model.tokenizer.encode(text) for model in models))
        assert EOD_TEXT in text or written(text)["input_ids"] == first  # transformers takes the text for the token
    processor = json.loads((exported / "tokenizer.json").read_text())["post_processor"]
    assert [part["type"] for part in processor.get("processors", [processor])] == kinds
    assert written("x", "y")["input_ids"] == [256, *plain.encode("x", "y", add_special_tokens=False).ids]
