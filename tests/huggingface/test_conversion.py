"""From a Hugging Face folder to a model directory and back, through the command line and its functions."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from t5x_code.checkpoints.model_directory import read_description
from t5x_code.errors import UserError
from t5x_code.huggingface.conversion import export_model, import_model
from t5x_code.huggingface.safetensors_folder import SafetensorsFolder
from t5x_code.tokens.special_tokens import EOD_TEXT, EOM_TEXT, SEP_TEXT, mask_text

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    """A tiny CodeGen as transformers saves it, with a byte-level tokenizer that keeps the special-token contract."""
    folder = tmp_path_factory.mktemp("hf") / "model"
    torch.manual_seed(0)
    config = transformers.CodeGenConfig(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=4, rotary_dim=4)
    transformers.CodeGenForCausalLM(config).save_pretrained(folder)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: index for index, letter in enumerate(sorted(alphabet))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([EOD_TEXT, SEP_TEXT, EOM_TEXT, mask_text(1), mask_text(2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def convert(*arguments):
    command = [sys.executable, str(REPOSITORY / "launch" / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_import_then_export_gives_the_same_bits_to_transformers(hf_folder, tmp_path):
    model_dir, exported = tmp_path / "model_dir", tmp_path / "exported"
    done = convert("import", "--family=codegen", f"--source={hf_folder}", f"--target={model_dir}")
    assert done.returncode == 0, done.stderr
    description = read_description(model_dir)
    assert not description.begin_document and description.config.num_heads == 4
    export_model(str(model_dir), str(exported))

    before, after = SafetensorsFolder(hf_folder), SafetensorsFolder(exported)
    assert set(before) == set(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert (exported / "tokenizer.json").read_bytes() == (hf_folder / "tokenizer.json").read_bytes()
    assert [path.name for path in tmp_path.glob("*.unfinished")] == []
    theirs = transformers.CodeGenForCausalLM.from_pretrained(exported)
    original = transformers.CodeGenForCausalLM.from_pretrained(hf_folder)
    tokens = torch.arange(20)[None]
    assert torch.equal(theirs(tokens).logits, original(tokens).logits)
    assert theirs.config.eos_token_id == 256


def remove_config(folder):
    (folder / "config.json").unlink()


def remove_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


def shrink_vocabulary(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (remove_config, r"config.json cannot be read \(No such file or directory\)"),
        (remove_tokenizer, "holds no tokenizer.json"),
        (remove_weights, "has neither model.safetensors"),
        (shrink_vocabulary, "has 261 tokens, its config.json says vocab_size 100"),
    ],
)
def test_a_broken_source_is_refused_and_nothing_is_written(hf_folder, tmp_path, break_it, message):
    source = tmp_path / "source"
    shutil.copytree(hf_folder, source)
    break_it(source)
    with pytest.raises(UserError, match=message):
        import_model("codegen", str(source), str(tmp_path / "target"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_existing_target_is_refused(hf_folder, tmp_path):
    with pytest.raises(UserError, match="exists; choose another"):
        import_model("codegen", str(hf_folder), str(tmp_path))
    with pytest.raises(UserError, match="exists; choose another"):
        export_model(str(hf_folder), str(tmp_path))


def test_exporting_what_is_no_model_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="is no model directory"):
        export_model(str(tmp_path), str(tmp_path / "target"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["import"], ["upgrade", "--source=a", "--target=b"], ["import", "--magic=1"]])
def test_a_wrong_command_line_ends_with_one_line_and_code_2(arguments):
    done = convert(*arguments)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
