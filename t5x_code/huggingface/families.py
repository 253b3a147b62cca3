"""The table of families, and how one is found."""

from t5x_code.errors import UserError
from t5x_code.huggingface.codegen import CODEGEN
from t5x_code.huggingface.family import Family, HfConfig, write_config
from t5x_code.huggingface.gpt_bigcode import GPT_BIGCODE
from t5x_code.huggingface.gpt_neo import GPT_NEO
from t5x_code.huggingface.llama import LLAMA, QWEN2
from t5x_code.huggingface.pangu_alpha import PANGU_ALPHA
from t5x_code.huggingface.starcoder2 import STARCODER2
from t5x_code.models.config import TransformerConfig

FAMILIES = {family.name: family for family in (CODEGEN, LLAMA, QWEN2, GPT_BIGCODE, STARCODER2, GPT_NEO, PANGU_ALPHA)}


def family_by_name(name: str) -> Family:
    """The family of that name.

    Raises:
        UserError: there is none.
    """
    if name not in FAMILIES:
        raise UserError(f"there is no family {name!r}; choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of_hf_config(hf: HfConfig) -> Family:
    """The family that a config.json names.

    Raises:
        UserError: an architecture that is none of ours, or a plain GPT-2.
    """
    model_type = hf.get("model_type")
    found = next((family for family in FAMILIES.values() if family.model_types[0] == model_type), None)
    if found is None:
        known = ", ".join(FAMILIES)
        raise UserError(f"config.json has model_type {model_type!r}, which is no known family; --family can be {known}")
    return found


def family_of_config(config: TransformerConfig) -> Family:
    """The first family that has such a decoder: a model that was trained here is exported as that.

    Raises:
        UserError: none has.
    """
    for family in FAMILIES.values():
        try:
            write_config(family, config)
        except UserError:
            continue
        return family
    raise UserError(
        f"no family has such a decoder ({config.norm}, {config.position_encoding}, {config.mlp}, ..); say --family to "
        "hear what differs"
    )
