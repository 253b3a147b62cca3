"""gin/models: each file is the model it says, by its number of parameters and by transformers' own count."""

import re
from pathlib import Path

import pytest
import torch
import transformers

from t5x_code.huggingface.families import FAMILIES, family_of_config
from t5x_code.huggingface.family import write_config
from t5x_code.models.decoder import count_params
from t5x_code.recipes.command_line import split_gin_bindings
from t5x_code.recipes.gin_files import load_recipe

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ("mini", "tiny")  # sizes of our own
# Family and number of parameters. Those without a class in transformers are counted by hand from the papers' shapes.
GOLDEN = {
    "codegen25_7b": ("llama", 6_895_702_016),
    "codegen2_16b": ("codegen", 16_032_155_648),
    "codegen2_1b": ("codegen", 1_015_306_240),
    "codegen2_3_7b": ("codegen", 3_641_174_016),
    "codegen2_7b": ("codegen", 6_862_858_240),
    "codegen_2b": ("codegen", 2_779_356_160),
    "codegen_350m": ("codegen", 356_712_448),
    "codegen_6b": ("codegen", 7_064_213_504),
    "codellama_13b": ("llama", 13_016_028_160),
    "codellama_34b": ("llama", 33_743_970_304),
    "codellama_7b": ("llama", 6_738_546_688),
    "pangu_coder_100m": ("pangu_alpha", 118_781_184),
    "pangu_coder_300m": ("pangu_alpha", 322_085_888),
    "pycodegpt_110m": ("gpt_neo", 110_390_784),
    "starcoder2_3b": ("starcoder2", 3_030_371_328),
    "starcoderbase_15_5b": ("gpt_bigcode", 15_517_456_384),
    "starcoderbase_1b": ("gpt_bigcode", 1_137_207_296),
    "starcoderbase_3b": ("gpt_bigcode", 3_043_311_104),
    "starcoderbase_7b": ("gpt_bigcode", 7_327_263_232),
}


def of_its_command(name: str) -> tuple[list[str], list[str]]:
    """Gin files and bindings of the command that the head of a model's file gives; of CodeGen2's sizes, of a run."""
    file = f"gin/models/{name}.gin"
    found = re.search(r"^# After a run file: (.*)$", (ROOT / file).read_text(), re.MULTILINE)
    command = found[1] if found else f"--gin_file=gin/codegen2_1b.gin --gin_file={file}"
    rest, bindings = split_gin_bindings(command.split())
    return [argument.removeprefix("--gin_file=") for argument in rest], bindings


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_equal_transformers(name):
    family, parameters = GOLDEN[name]
    model = load_recipe(*of_its_command(name))[0].model
    assert family_of_config(model).name == family
    assert count_params(model) == parameters
    # CodeGen's training code draws by size; what other families' configs say serves models that go on from weights.
    assert (model.initializer_range is None) == (family == "codegen")
    if FAMILIES[family].architecture:
        hf = write_config(FAMILIES[family], model)
        config = transformers.AutoConfig.for_model(**hf)
        with torch.device("meta"):
            theirs = transformers.AutoModelForCausalLM.from_config(config)
        assert theirs.num_parameters() == parameters


def test_the_table_is_whole_and_the_files_say_their_size():
    files = {path.stem: path.read_text() for path in (ROOT / "gin/models").glob("*.gin") if path.stem not in OVERLAYS}
    assert files.keys() == GOLDEN.keys()
    for name, text in files.items():
        (said,) = re.findall(r"([\d.]+) (B|M) parameters", text)
        assert float(said[0]) * {"B": 1e9, "M": 1e6}[said[1]] == pytest.approx(GOLDEN[name][1], rel=5e-3), name
