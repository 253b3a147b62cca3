"""Models that come from and go to Hugging Face by command line: what is exported computes the same, what is imported
trains on with the tokens that its task adds."""

import inspect
import json
import textwrap

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
import transformers

from t5x_code.checkpoints.model_directory import read_model_directory
from t5x_code.models.decoder import hidden_states, logits
from t5x_code.tokens import train_bpe
from t5x_code.tokens.modality import ModalityTables
from t5x_code.tokens.tokenizer import Tokenizer

CODE = "def number(x):\n    if isinstance(x, frozenset):\n        return -7\n    return x + 7\n"
OLD_TOKENS = 420


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Docstring-code pairs as JSON lines."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = [
        {"docstring": f"Gives number {n}.", "code": CODE.replace("7", str(n)).replace("number", f"number_{n}")}
        for n in range(300)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def arguments(form, pairs, model_dir, *bindings):
    settings = [f"MIXTURE='jsonl_pairs:{pairs}'", f"DATA='{pairs.parent}/stores'", f"MODEL_DIR='{model_dir}'"]
    settings += ["LOG_PERIOD=1", "BATCH_SIZE=2", *bindings]
    files = [f"--gin_file=gin/modality_{form}.gin", "--gin_file=gin/models/tiny.gin"]
    return [*files, *(f"--gin.{setting}" for setting in settings)]


@pytest.mark.parametrize("separation", ["partial", pytest.param("full", marks=pytest.mark.slow)])
def test_a_separated_model_is_exported_as_a_plain_one(separation, script, pairs, tmp_path):
    more = ("TRAIN_STEPS=3", "LEARNING_RATE=1e-2", "TransformerConfig.vocab_size=1536")
    trained = script("train.py", *arguments(f"code_clm_{separation}", pairs, tmp_path / "run", *more), is_long=False)
    assert trained.code == 0, trained.err
    assert f"modality separation {separation}: " in trained.err and "of 1,536 rows doubled" in trained.err
    assert ("forms of Python's words that it lacks" in trained.err) == (separation == "partial")
    ended = script("convert.py", "export", f"--source={tmp_path / 'run'}", f"--target={tmp_path / 'hf'}", "--plain")
    assert ended.code == 0 and "reads all as text" not in ended.out, ended.err
    ended = script("convert.py", "export", f"--source={tmp_path / 'run'}", f"--target={tmp_path / 'split'}")
    assert ended.code == 0 and "without --plain it reads all as text" in ended.out

    description, params = read_model_directory(tmp_path / "run")
    tables = ModalityTables.from_json(description.extra["modality"])
    base_ids = Tokenizer.load(str(tmp_path / "run/tokenizer")).encode(CODE)
    code_ids = tables.ids[1][base_ids]
    assert (code_ids >= 1536).any() and (separation == "full" or (code_ids < 1536).any())
    positions = np.arange(len(base_ids))[None]
    x_BxLxD = hidden_states(
        description.config, params, code_ids[None], positions, np.zeros_like(positions), positions + 1
    )
    ours = np.asarray(logits(description.config, params, x_BxLxD))[0][:, tables.ids[1]]

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.encode(CODE, add_special_tokens=False) == base_ids.tolist()
    assert tokenizer.decode(base_ids) == CODE
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert model.config.vocab_size == 1536
    with torch.no_grad():
        theirs = model(torch.tensor(base_ids[None].astype(np.int64))).logits[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_a_run_starts_from_an_imported_model_with_the_tokens_that_its_task_adds(script, pairs, tmp_path):
    """The first step of a warm-up has a learning rate of 0: the checkpoint after it holds what the run started from."""
    config = transformers.GPTNeoConfig(
        vocab_size=OLD_TOKENS,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        intermediate_size=256,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    transformers.GPTNeoForCausalLM(config).save_pretrained(tmp_path / "hf")
    train_bpe.train([inspect.getsource(textwrap)], OLD_TOKENS, 5).save(tmp_path / "hf")
    ended = script("convert.py", "import", f"--source={tmp_path / 'hf'}", f"--target={tmp_path / 'imported'}")
    assert ended.code == 0, ended.err

    more = [f"INITIALIZE_FROM='{tmp_path / 'imported'}'", "TRAIN_STEPS=1"]  # whose tokenizer the stores are made with
    more += [f"DATA='{tmp_path / 'stores'}'"]
    more.append(f"TransformerConfig.vocab_size={OLD_TOKENS}")
    too_small = script("train.py", *arguments("code_clm_none", pairs, tmp_path / "run", *more))
    assert too_small.code == 2 and f"has {OLD_TOKENS + 7} tokens" in too_small.error_lines[0]
    more[-1] = f"TransformerConfig.vocab_size={OLD_TOKENS + 7}"
    trained = script("train.py", *arguments("code_clm_none", pairs, tmp_path / "run", *more), is_long=False)
    assert trained.code == 0, trained.err
    assert f"imported; 7 new tokens start as the mean of its {OLD_TOKENS}" in trained.err

    old, new = (read_model_directory(tmp_path / name)[1] for name in ("imported", "run"))
    jax.tree.map(np.testing.assert_array_equal, new["layers"], old["layers"])
    rows, grown = (np.asarray(params["embedding"]["kernel"], np.float64) for params in (old, new))
    np.testing.assert_array_equal(grown[:OLD_TOKENS], rows[:OLD_TOKENS])
    mean = rows[:OLD_TOKENS].mean(0)
    np.testing.assert_allclose(grown[OLD_TOKENS : OLD_TOKENS + 7], np.tile(mean, (7, 1)), atol=1e-7)
    with ocp.StandardCheckpointer() as checkpointer:
        moments = checkpointer.restore(tmp_path / "run/checkpoints/1/training")["opt_state"][1]
    assert moments["count"] == 1
    # Of Adam's fresh state one gradient g makes the moments 0.1 g and 0.001 g^2.
    pairs_of_moments = zip(*(jax.tree.leaves(moments[name]) for name in ("mu", "nu")), strict=True)
    for mean, square in pairs_of_moments:
        assert mean.any()
        np.testing.assert_allclose(square, 0.1 * mean**2, rtol=1e-4, atol=1e-30)
