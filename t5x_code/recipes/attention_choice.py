"""How a run computes attention: settled before it starts, from its devices, its rows and what its objectives show."""

import dataclasses

from jax.sharding import AbstractMesh, Mesh

from t5x_code.errors import UserError
from t5x_code.models.attention.choice import AUTO, choose, refuse_unknown, why_not
from t5x_code.models.attention.dispatch import case_of
from t5x_code.models.config import TransformerConfig
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.recipes.recipe import Recipe


def settle_attention(recipe: Recipe, mesh: Mesh) -> TransformerConfig:
    """The recipe's model with the implementation of its attention named.

    Raises:
        UserError: the recipe names one that cannot compute its rows on these devices; says why. Or the mesh does not
            divide its rows.
    """
    refuse_uneven_rows(recipe.data.length, mesh)
    refuse_attention(recipe)
    model = recipe.model
    queries = recipe.data.length // mesh.shape["sequence"]
    case = case_of(mesh.devices.flat[0], queries, recipe.data.length, model.head_dim, model.dtype)
    name = choose(model.attention, case)
    # Only a recipe knows that its mask is causal and nothing else: then cuDNN needs no array to say so.
    if model.attention == AUTO and name in ("tokamax", "cudnn") and is_plainly_causal(recipe):
        name = "cudnn_causal" if why_not("cudnn_causal", case) is None else name
    return dataclasses.replace(model, attention=name)


def refuse_attention(recipe: Recipe) -> None:
    """Raises a UserError where the recipe names an attention that computes its rows on no device."""
    refuse_unknown(recipe.model.attention)
    if recipe.model.attention == "cudnn_causal" and not is_plainly_causal(recipe):
        raise UserError(
            "TransformerConfig.attention is 'cudnn_causal', which lets every token see all tokens before it, but this "
            f"recipe's rows do not: set ISOLATE_DOCUMENTS=False and CausalLM alone, or attention to {AUTO!r}"
        )


def refuse_uneven_rows(length: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises a UserError unless each share of the axis `sequence` has as many tokens of a row."""
    shares = mesh.shape["sequence"]
    if length % shares:
        raise UserError(
            f"SEQUENCE_LENGTH {length} does not divide over MeshConfig.sequence={shares}; "
            f"try {-(-length // shares) * shares}"
        )


def is_plainly_causal(recipe: Recipe) -> bool:
    """Whether each token sees exactly the tokens of its row up to itself, in every row of every objective."""
    only_causal = all(isinstance(objective, CausalLM) for objective in recipe.data.every_objective)
    return only_causal and not recipe.data.isolate_documents and not any(recipe.model.window_pattern)
