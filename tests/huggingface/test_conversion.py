"""From a Hugging Face folder to a model directory and back, through the command line and its functions."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from random_models import CLASSES, random_hf_config, random_tensors, random_torch_model

from t5x_code.checkpoints.model_directory import (
    read_description,
    read_model_directory,
    write_model_directory,
)
from t5x_code.errors import UserError
from t5x_code.huggingface.conversion import export_model, import_model, load_onto_mesh
from t5x_code.huggingface.families import FAMILIES
from t5x_code.huggingface.family import read_config, write_config
from t5x_code.huggingface.safetensors_file import write_safetensors
from t5x_code.huggingface.weights_folder import WeightsFolder
from t5x_code.models.decoder import hidden_states, init_params, logits
from t5x_code.models.lora import join, trained
from t5x_code.parallel.mesh import MeshConfig, make_mesh

REPOSITORY = Path(__file__).resolve().parents[2]
DTYPES = ("float32", "bfloat16", "float16")
# Each family with one type in the default run, with the others in the slow one.
FAMILIES_AND_DTYPES = [
    pytest.param(family, dtype, marks=[] if (number + DTYPES.index(dtype)) % 3 == 0 else pytest.mark.slow)
    for number, family in enumerate(CLASSES)
    for dtype in DTYPES
]


def convert(*arguments):
    command = [sys.executable, str(REPOSITORY / "launch" / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_same_bits(before, after):
    before, after = WeightsFolder(before), WeightsFolder(after)
    assert set(before) == set(after)
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert before[name].tobytes() == after[name].tobytes(), name


def test_import_then_export_gives_the_same_bits_to_transformers(hf_folder, tmp_path):
    model_dir, exported = tmp_path / "model_dir", tmp_path / "exported"
    done = convert("import", f"--source={hf_folder}", f"--target={model_dir}")
    assert done.returncode == 0, done.stderr
    assert "codegen" in done.stdout and "100%" in done.stderr
    description = read_description(model_dir)
    assert not description.begin_document and description.config.num_heads == 4
    export_model(str(model_dir), str(exported))

    assert_same_bits(hf_folder, exported)
    assert (exported / "tokenizer.json").read_bytes() == (hf_folder / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "model_dir"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported)
    original = transformers.AutoModelForCausalLM.from_pretrained(hf_folder)
    tokens = torch.arange(20)[None]
    assert torch.equal(theirs(tokens).logits, original(tokens).logits)
    assert theirs.config.eos_token_id == 256


@pytest.mark.parametrize(("family", "dtype"), FAMILIES_AND_DTYPES)
def test_export_of_import_is_the_same_bits(family, dtype, tmp_path):
    model = random_torch_model(family, DTYPES.index(dtype)).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "theirs")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"), dtype=dtype)
    export_model(str(tmp_path / "ours"), str(tmp_path / "back"), dtype=dtype)
    assert_same_bits(tmp_path / "theirs", tmp_path / "back")
    again, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert again.dtype == model.dtype
    tokens = torch.arange(12)[None]
    # The weights are the same bits; where they lie in memory may change how torch adds up.
    assert torch.allclose(again(tokens).logits, model(tokens).logits, atol=1e-5 if dtype == "float32" else 5e-2)


@pytest.mark.parametrize(("kind", "dtype"), [("pangu_alpha", "float32"), ("codegen_mp8", "bfloat16")])
def test_export_of_import_is_the_same_bits_where_transformers_has_no_class(kind, dtype, tmp_path):
    family = kind.removesuffix("_mp8")
    mp_num = 8 if kind == "codegen_mp8" else None
    hf = random_hf_config(kind, 0) | {"model_type": family} | ({"mp_num": 8} if mp_num else {})
    tensors = random_tensors(family, hf, 0)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/config.json").write_text(json.dumps(hf))
    shapes = [(name, tensor.shape) for name, tensor in tensors.items()]
    np_dtype = {"float32": np.float32, "bfloat16": jax.numpy.bfloat16}[dtype]
    write_safetensors(tmp_path / "theirs", shapes, tensors.values(), np_dtype, shard_bytes=20_000)
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    export_model(str(tmp_path / "ours"), str(tmp_path / "back"), mp_num=mp_num, dtype=dtype)
    assert_same_bits(tmp_path / "theirs", tmp_path / "back")


def test_qwen2s_layers_are_windowed_as_their_types_say():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    types = ["full_attention", "sliding_attention"] * 2
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0, "layer_types": types}
    hf = transformers.Qwen2Config(vocab_size=97, num_key_value_heads=2, **sizes, **window).to_dict()
    config = read_config(FAMILIES["qwen2"], hf)
    assert config.window_of_layer == (0, 4, 0, 4)
    assert write_config(FAMILIES["qwen2"], config)["layer_types"] == types
    with pytest.raises(UserError, match="layer_types"):
        read_config(FAMILIES["qwen2"], hf | {"layer_types": types[:3]})


def test_a_torch_file_gives_the_same_parameters_as_safetensors(hf_folder, tmp_path):
    source = Path(shutil.copytree(hf_folder, tmp_path / "source"))
    tensors = {name: torch.tensor(np.asarray(tensor)) for name, tensor in WeightsFolder(source).items()}
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    import_model(str(source), str(tmp_path / "from_torch"))
    export_model(str(tmp_path / "from_torch"), str(tmp_path / "back"))
    assert_same_bits(hf_folder, tmp_path / "back")


def test_straight_onto_a_mesh_is_the_same_as_through_a_model_directory(hf_folder, tmp_path):
    import_model(str(hf_folder), str(tmp_path / "ours"))
    mesh = make_mesh(MeshConfig())
    loaded, params = load_onto_mesh(str(hf_folder), mesh)
    description, restored = read_model_directory(tmp_path / "ours", mesh=mesh)
    assert loaded == description
    jax.tree.map(np.testing.assert_array_equal, params, restored)
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == jax.tree.map(lambda leaf: leaf.sharding, restored)


def test_a_model_without_a_tokenizer_is_imported_and_said_so(hf_folder, tmp_path):
    source = Path(shutil.copytree(hf_folder, tmp_path / "source"))
    (source / "tokenizer.json").unlink()
    done = convert("import", f"--source={source}", f"--target={tmp_path / 'ours'}")
    assert done.returncode == 0, done.stderr
    assert f"{source} has no tokenizer.json: put one into {tmp_path / 'ours' / 'tokenizer'}" in done.stdout
    export_model(str(tmp_path / "ours"), str(tmp_path / "back"))
    assert_same_bits(hf_folder, tmp_path / "back")


def remove_config(folder):
    (folder / "config.json").unlink()


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_weights(folder):
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 10)


def name_a_missing_shard(folder):
    remove_weights(folder)  # it would be read before an index
    index = {"weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def list_of_token_ids(folder):
    (folder / "generation_config.json").write_text("[1]")


def code_in_a_pickle(folder):
    remove_weights(folder)
    torch.save({"transformer.wte.weight": pickle.Pickler}, folder / "pytorch_model.bin")


def change_config(**fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return change


BROKEN = [
    (remove_config, r"config.json cannot be read \(No such file or directory\)"),
    (remove_weights, "has neither model.safetensors"),
    (cut_weights, "model.safetensors is damaged"),
    (name_a_missing_shard, "has no model-00001-of-00002.safetensors"),
    (list_of_token_ids, "generation_config.json is no JSON object"),
    (code_in_a_pickle, "holds the Python object"),
    (change_config(vocab_size=100), "has 261 tokens, its config.json says vocab_size 100"),
    (change_config(model_type="mamba"), "model_type 'mamba', which is no known family"),
    (change_config(vocab_size=301), r"has shape \(300.*\), its config.json says \(301"),
    (change_config(n_layer=3), "has no tensor transformer.h.2.attn.out_proj.weight, .* and 5 more"),
    (change_config(n_layer=1), "tensor transformer.h.1.attn.out_proj.weight, .* has no place in codegen"),
    (change_config(tie_word_embeddings=True), "ties the head .* lm_head.weight differs"),
]


@pytest.mark.parametrize(("break_it", "message"), BROKEN)
def test_a_broken_source_is_refused_and_nothing_is_written(hf_folder, tmp_path, break_it, message):
    source = tmp_path / "source"
    shutil.copytree(hf_folder, source)
    break_it(source)
    with pytest.raises(UserError, match=message) as error:
        import_model(str(source), str(tmp_path / "target"))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_existing_target_is_refused(hf_folder, tmp_path):
    with pytest.raises(UserError, match="exists; choose another"):
        import_model(str(hf_folder), str(tmp_path))
    with pytest.raises(UserError, match="exists; choose another"):
        export_model(str(hf_folder), str(tmp_path))


def test_exporting_what_is_no_model_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="is no model directory"):
        export_model(str(tmp_path), str(tmp_path / "target"))
    assert not any(tmp_path.iterdir())


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("break_it", [flip_bit, cut, Path.unlink])
def test_a_damaged_step_is_left_out_of_an_export(hf_folder, tmp_path, capsys, break_it):
    import_model(str(hf_folder), str(tmp_path / "ours"))
    checkpoints = tmp_path / "ours" / "checkpoints"
    shutil.copytree(checkpoints / "0", checkpoints / "1")
    break_it(checkpoints / "1" / "params" / "layers.mlp.in.kernel" / "1.0.0")
    export_model(str(tmp_path / "ours"), str(tmp_path / "out"))
    assert "1 is left out: file params/layers.mlp.in.kernel/1.0.0" in capsys.readouterr().err
    assert_same_bits(hf_folder, tmp_path / "out")
    with pytest.raises(UserError, match=r"checkpoint .*1 is damaged: file params/layers.mlp.in.kernel/1.0.0"):
        export_model(str(tmp_path / "ours"), str(tmp_path / "no"), step=1)
    shutil.rmtree(checkpoints / "0")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        export_model(str(tmp_path / "ours"), str(tmp_path / "no"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "out"]


def test_a_model_of_no_family_is_exported_as_one_and_says_which(hf_folder, tmp_path):
    imported = import_model(str(hf_folder), str(tmp_path / "ours"))
    _, params = read_model_directory(tmp_path / "ours")
    write_model_directory(tmp_path / "own", dataclasses.replace(imported, family=None), params, hf_folder)
    assert export_model(str(tmp_path / "own"), str(tmp_path / "out")).family == "codegen"


def test_numbers_beyond_a_type_are_refused_in_both_directions(hf_folder, tmp_path):
    description = import_model(str(hf_folder), str(tmp_path / "ours"))
    _, params = read_model_directory(tmp_path / "ours")
    params["layers"]["mlp"]["out"]["kernel"] *= 1e9
    write_model_directory(tmp_path / "large", description, params, hf_folder)
    with pytest.raises(UserError, match=r"transformer.h.0.mlp.fc_out.weight has numbers that float16 cannot hold"):
        export_model(str(tmp_path / "large"), str(tmp_path / "half"), dtype="float16")
    export_model(str(tmp_path / "large"), str(tmp_path / "whole"))
    with pytest.raises(UserError, match=r"layers/mlp/out/kernel has numbers that float16 cannot hold"):
        import_model(str(tmp_path / "whole"), str(tmp_path / "again"), dtype="float16")
    assert not any((tmp_path / name).exists() for name in ("half", "again"))


def test_mp_num_is_codegens_alone(tmp_path):
    random_torch_model("llama", 0).save_pretrained(tmp_path / "theirs")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    with pytest.raises(UserError, match="--mp_num is CodeGen's, the model is llama"):
        export_model(str(tmp_path / "ours"), str(tmp_path / "back"), mp_num=4)
    with pytest.raises(UserError, match="--mp_num is CodeGen's, the model is llama"):
        import_model(str(tmp_path / "theirs"), str(tmp_path / "again"), mp_num=4)


@pytest.mark.parametrize("mp_num", [0, -4])
def test_a_layout_for_no_devices_is_refused_in_both_directions(hf_folder, tmp_path, mp_num):
    import_model(str(hf_folder), str(tmp_path / "ours"))
    with pytest.raises(UserError, match=f"mp_num {mp_num} does not divide the 4 heads"):
        export_model(str(tmp_path / "ours"), str(tmp_path / "back"), mp_num=mp_num)
    with pytest.raises(UserError, match=f"mp_num {mp_num} does not divide the 4 heads"):
        import_model(str(hf_folder), str(tmp_path / "again"), mp_num=mp_num)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_model_that_model_json_does_not_describe_is_not_exported(hf_folder, tmp_path):
    import_model(str(hf_folder), str(tmp_path / "ours"))
    file = tmp_path / "ours" / "model.json"
    description = json.loads(file.read_text())
    description["config"]["num_layers"] += 1
    file.write_text(json.dumps(description))
    with pytest.raises(UserError, match="damaged or of another model: parameter layers/"):
        export_model(str(tmp_path / "ours"), str(tmp_path / "back"))
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize("arguments", [["upgrade", "--source=a", "--target=b"], ["import", "--magic=1"]])
def test_a_wrong_command_line_ends_with_one_line_and_code_2(arguments):
    done = convert(*arguments)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_adapters_are_merged_on_export(hf_folder, tmp_path):
    """A model trained with LoRA exports as a plain one: its logits in transformers are those of kernels plus A B."""
    imported = import_model(str(hf_folder), str(tmp_path / "base"))
    config = dataclasses.replace(imported.config, lora_rank=2, lora_alpha=4.0)
    _, base = read_model_directory(tmp_path / "base")
    drawn = iter(jax.random.split(jax.random.key(1), 1000))
    fresh = trained(init_params(config, next(drawn)))
    adapters = jax.tree.map(lambda leaf: 0.1 * jax.random.normal(next(drawn), leaf.shape), fresh)
    description = dataclasses.replace(imported, config=config)
    write_model_directory(tmp_path / "adapted", description, join(adapters, base), hf_folder)
    assert export_model(str(tmp_path / "adapted"), str(tmp_path / "out")).config.lora_rank == 0
    ids = np.arange(20, dtype=np.int32)[None]
    reads = (ids, ids, 0 * ids, ids + 1)
    config = dataclasses.replace(config, dtype="float32")
    ours = logits(config, join(adapters, base), hidden_states(config, join(adapters, base), *reads))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"
    exported = transformers.CodeGenForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        theirs = exported(torch.from_numpy(ids.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(ours[..., : theirs.shape[-1]], theirs, rtol=1e-4, atol=1e-5)
    plain_config = dataclasses.replace(config, lora_rank=0)
    plain = logits(plain_config, base, hidden_states(plain_config, base, *reads))
    assert float(abs(plain - ours)[..., : theirs.shape[-1]].max()) > 0.01
