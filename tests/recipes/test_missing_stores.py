"""Where a recipe names its stores, a missing one is announced before it is made, and named where it cannot be made."""

import json
import re

import jax
import pytest
import tokenizers

from t5x_code.errors import UserError
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.inputs import prepare_inputs
from t5x_code.recipes.mixture import stores_root
from t5x_code.recipes.vocabulary import find_vocabulary
from t5x_code.tokens import train_bpe
from t5x_code.tokens.tokenizer import Tokenizer

VOCAB_SIZE = 8192


@pytest.fixture
def source(tmp_path):
    """A corpus of a few documents."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"def f{n}(x):\n    return x + {n}\n" * 9}) for n in range(60)))
    return path


@pytest.fixture
def prepare(tmp_path, capfd, monkeypatch):
    """A function that prepares the inputs of a recipe with a mixture; gives the lines that were said."""
    monkeypatch.setenv("T5X_CODE_CACHE", str(tmp_path / "cache"))

    def run(mixture: str, *bindings: str) -> list[str]:
        settings = [f"MIXTURE='{mixture}'", "SEQUENCE_LENGTH=64", *bindings]
        recipe, _ = load_recipe(["gin/quickstart.gin"], settings)
        capfd.readouterr()
        prepare_inputs(recipe.data, VOCAB_SIZE)
        lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
        return [line for line in lines if re.search("brings a tokenizer|DATA=", line)]

    return run


def test_a_missing_store_is_announced_once(prepare, source, tmp_path):
    data = tmp_path / "stores"
    trained, made = prepare(f"jsonl:{source}", f"DATA='{data}'")
    (tokenizer,) = (data / "tokenizers").iterdir()
    assert re.fullmatch(
        rf"no store in {data} brings a tokenizer: training one on the mixture jsonl_corpus_\w+", trained
    )
    announced = (
        rf"DATA={data} holds no store jsonl_corpus_\w+: making it now, with the tokenizer {tokenizer} of \d+ entries"
    )
    assert re.fullmatch(announced, made)
    assert prepare(f"jsonl:{source}", f"DATA='{data}'") == []
    (made,) = prepare(f"jsonl:{source}", f"DATA='{tmp_path / 'other'}'", f"TOKENIZER='{tokenizer}'")
    assert made.startswith(f"DATA={tmp_path / 'other'} holds no store ")


def test_new_stores_take_the_tokenizer_of_the_model_that_a_run_starts_from(prepare, source, tmp_path):
    train_bpe.train([f"text {n}" for n in range(99)], 300, 4).save(tmp_path / "model/tokenizer")
    start = f"INITIALIZE_FROM='{tmp_path / 'model'}'"
    (made,) = prepare(f"jsonl:{source}", f"DATA='{tmp_path / 'new'}'", start)
    assert f"with the tokenizer {tmp_path / 'model/tokenizer'} of" in made
    prepare(f"jsonl:{source}", f"DATA='{tmp_path / 'old'}'")  # a store that is there brings its own
    assert prepare(f"jsonl:{source}", f"DATA='{tmp_path / 'old'}'", start) == []
    without = prepare(f"jsonl:{source}", f"DATA='{tmp_path / 'other'}'", "INITIALIZE_FROM='imported_without_one'")
    assert "training one on" in without[0]


def test_a_recipe_whose_data_is_not_given_takes_the_tokenizer_that_it_names(tmp_path, monkeypatch):
    """Its stores lie apart from those of other tokenizers in the cache that all such runs share."""
    monkeypatch.setenv("T5X_CODE_CACHE", str(tmp_path / "cache"))
    roots = []
    for name, size in (("one", 300), ("two", 290)):
        train_bpe.train([f"text {n}" for n in range(99)], size, 4).save(tmp_path / name / "tokenizer")
        for binding in (f"TOKENIZER='{tmp_path / name / 'tokenizer'}'", f"INITIALIZE_FROM='{tmp_path / name}'"):
            recipe, _ = load_recipe(["gin/quickstart.gin"], ["MIXTURE='stack_pile'", binding])
            found = find_vocabulary(recipe.data, VOCAB_SIZE, trains_on="nothing")
            assert found.folder == str(tmp_path / name / "tokenizer")
            roots.append(found.root)
    assert roots[0] == roots[1] != roots[2] == roots[3] and stores_root(recipe.data) not in roots


def test_a_recipe_without_data_makes_its_stores_without_a_word_on_them(prepare, source):
    (trained,) = prepare(f"jsonl:{source}")
    assert re.match(r"no store in \S+ brings a tokenizer: ", trained)


def test_the_first_of_many_processes_says_it(prepare, source, tmp_path, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert prepare(f"jsonl:{source}", f"DATA='{tmp_path / 'stores'}'") == []
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    assert len(prepare(f"jsonl:{source}", f"DATA='{tmp_path / 'other'}'")) == 2


def test_what_cannot_be_made_names_the_folder_and_the_store(prepare, source, tmp_path, capfd):
    data, absent = tmp_path / "stores", tmp_path / "absent.jsonl"
    says = rf"^DATA={data} holds no store jsonl_absent_\w+, and none can be made: no file at {absent}"
    with pytest.raises(UserError, match=says):
        prepare(f"jsonl:{absent}", f"DATA='{data}'")
    assert capfd.readouterr().err == ""  # nothing was begun
    prepare(f"jsonl:{source}", f"DATA='{data}'")
    (tokenizer,) = (data / "tokenizers").iterdir()
    with pytest.raises(UserError, match=says):
        prepare(f"jsonl:{absent}", f"DATA='{data}'", f"TOKENIZER='{tokenizer}'")
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match="holds no store the_stack or the_pile, and none can be made: no file at the_"):
        prepare("stack_pile", f"DATA='{tmp_path / 'nostores'}'")
    with pytest.raises(UserError, match=r"^no file at"):
        prepare(f"jsonl:{absent}")


def test_a_tokenizer_that_cannot_serve_an_objective_is_refused_before_a_store_is_made(prepare, source, tmp_path):
    data, folder = tmp_path / "stores", tmp_path / "no_masks"
    maskless = tokenizers.Tokenizer(tokenizers.models.BPE())
    maskless.add_special_tokens(["<|endoftext|>"])
    Tokenizer.from_json(maskless.to_str(), "a test").save(folder)
    with pytest.raises(UserError, match="span corruption needs mask tokens"):
        prepare(f"jsonl:{source}", f"DATA='{data}'", f"TOKENIZER='{folder}'")
    assert not data.exists()
