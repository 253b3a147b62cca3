"""Recipes: each one loads, has the documented size, and every kind of mistake gets one line."""

import re
from pathlib import Path

import pytest

from t5x_code.errors import UserError
from t5x_code.models.decoder import count_params
from t5x_code.recipes.gin_files import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.name for path in (ROOT / "gin").glob("*.gin") if path.name != "defaults.gin")
MESHES = sorted(path.name for path in (ROOT / "gin/meshes").glob("*.gin"))
# The sizes that the CodeGen2 paper's shapes give, in parameters.
SIZES = {"codegen2_1b": 1.015e9, "codegen2_3_7b": 3.641e9, "codegen2_7b": 6.863e9, "codegen2_16b": 16.032e9}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_and_its_resolved_text_loads_to_the_same(name, tmp_path):
    recipe, resolved = load_recipe([f"gin/{name}"])
    (tmp_path / "config.gin").write_text(resolved)
    again, _ = load_recipe([str(tmp_path / "config.gin")])
    assert again == recipe


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_sizes(name, size):
    recipe, _ = load_recipe([f"gin/{name}.gin"])
    assert count_params(recipe.model) == pytest.approx(size, rel=5e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_head_comment_holds_the_command(name):
    head = (ROOT / "gin" / name).read_text().split("include")[0]
    assert f"python launch/train.py --gin_file=gin/{name}" in head


@pytest.mark.parametrize("mesh", MESHES)
def test_mesh_files_divide_the_batch_of_some_recipe(mesh):
    recipes = [load_recipe([f"gin/{name}.gin", f"gin/meshes/{mesh}"])[0] for name in SIZES]
    assert any(recipe.loop.batch_size % abs(recipe.mesh.data * recipe.mesh.fsdp) == 0 for recipe in recipes)


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_of_the_head_comment_loads_and_divides_its_batch(name):
    head = (ROOT / "gin" / name).read_text().split("include")[0]
    files, bindings = re.findall(r"--gin_file=([\w/.]+\.gin)", head), re.findall(r"--gin\.(\S+)=\"(.*?)\"", head)
    tiny = "gin/models/tiny.gin"  # named by the comment for a laptop
    recipe, _ = load_recipe([file for file in files if file != tiny], [f"{key}={value}" for key, value in bindings])
    assert recipe.loop.batch_size % abs(recipe.mesh.data * recipe.mesh.fsdp) == 0


def test_a_value_set_directly_leaves_its_macro_unread_without_complaint(tmp_path):
    bound, _ = load_recipe(["gin/quickstart.gin"], ["TransformerConfig.remat='full'"])
    (tmp_path / "mine.gin").write_text("include 'gin/quickstart.gin'\nTransformerConfig.remat = 'full'\n")
    included, _ = load_recipe([str(tmp_path / "mine.gin")])
    assert bound == included and bound.model.remat == "full"


def test_later_files_win_and_bindings_win_over_files():
    tiny, _ = load_recipe(["gin/codegen2_1b.gin", "gin/models/tiny.gin"])
    assert (tiny.model.num_layers, tiny.model.max_length, tiny.data.length) == (2, 128, 128)
    assert tiny.model.vocab_size == 51200 and tiny.loop.batch_size == 8
    bound, _ = load_recipe(["gin/codegen2_1b.gin", "gin/models/tiny.gin"], ["TransformerConfig.num_layers=3", "SEED=7"])
    assert (bound.model.num_layers, bound.data.seed, bound.loop.seed) == (3, 7, 7)


@pytest.mark.parametrize(
    ("files", "bindings", "says"),
    [
        ([], [], "pass --gin_file="),
        (["gin/no_such.gin"], [], "gin file gin/no_such.gin does not exist"),
        (["gin/quickstart.gin"], ["TRIAN_STEPS=3"], "TRIAN_STEPS.*did you mean TRAIN_STEPS"),
        (["gin/quickstart.gin"], ["MODEL_DIR=%MODELDIR"], r": macro MODELDIR is read but set nowhere$"),
        (["gin/quickstart.gin"], ["TransformerConfig.num_layer=3"], r", in --gin\S+=3; did you mean num_layers\?"),
        (["gin/quickstart.gin"], ["TransformerConfig.x=3"], r"named 'x', in --gin.TransformerConfig.x=3$"),
        (["gin/quickstart.gin"], ["Unknown.x=3"], "Unknown.*; there are Recipe, .*CausalLM"),
        (["gin/quickstart.gin"], ["DataConfig.objectives=((@CausalLm(), 1.0),)"], r"; did you mean CausalLM\?"),
        (["gin/quickstart.gin"], ["MODEL_DIR=runs/x y"], "MODEL_DIR"),
        (["gin/quickstart.gin"], ["TRAIN_STEPS"], "NAME=value"),
        (["gin/quickstart.gin"], ["BATCH_SIZE=((0, 8), (10, 16)"], "BATCH_SIZE=.*: not a gin value"),
        (["gin/quickstart.gin"], ["MODEL_DIR='runs/x"], "MODEL_DIR='runs/x: not a gin value"),
        (["gin/quickstart.gin"], ["TransformerConfig.remat='some'"], "remat"),
        (["gin/quickstart.gin"], ["LossConfig.contrastive=0.1"], "use the objective NtpPlus"),
        (["gin/quickstart.gin"], ["DataConfig.eval_batch_size=0"], "eval_batch_size is 0: it must be 1 or more"),
        (["gin/quickstart.gin"], ["DataConfig.threads=-1"], "threads is -1: it must be 0 or more"),
        (["gin/quickstart.gin"], ["TransformerConfig.max_length=8"], "longer than the model's context of 8"),
        (["gin/ntp_plus_quickstart.gin"], ["NtpPlus.negatives=('obf',)"], "NtpPlus.negatives"),
    ],
)
def test_mistakes_get_one_line(files, bindings, says):
    with pytest.raises(UserError) as error:
        load_recipe(files, bindings)
    assert re.search(says, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line", ["TransformerConfig.num_layers = = 3", "BATCH_SIZE = ((0, 8)", "import no_such_module"]
)
def test_a_broken_gin_file_is_named(tmp_path, line):
    (tmp_path / "broken.gin").write_text(f"include 'gin/quickstart.gin'\n{line}\n")
    with pytest.raises(UserError, match=r"broken\.gin"):
        load_recipe([str(tmp_path / "broken.gin")])
