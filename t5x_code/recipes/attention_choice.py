"""How a run computes attention: settled before it starts, from its devices, its rows and what its objectives show."""

import dataclasses

from jax.sharding import AbstractMesh, Mesh

from t5x_code.errors import UserError
from t5x_code.models.attention.choice import CAUSAL_ALONE, choose, refuse_unknown, why_not
from t5x_code.models.attention.dispatch import case_of
from t5x_code.models.config import AUTO, TransformerConfig
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Objective, PackingObjective
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
    # Only a recipe knows that no token sees a later one: then kernels visit half of the tiles, and need fewer arrays.
    if model.attention == AUTO and name in ("tokamax", "cudnn", "chunked"):
        for faster in ("cudnn_causal", "tokamax_causal"):
            if suits_rows(faster, recipe) and why_not(faster, case) is None:
                return dataclasses.replace(model, attention=faster)
    return dataclasses.replace(model, attention=name)


def refuse_attention(recipe: Recipe) -> None:
    """Raises a UserError where the recipe names an attention that computes its rows on no device."""
    refuse_unknown(recipe.model.attention)
    name = recipe.model.attention
    if name not in CAUSAL_ALONE or suits_rows(name, recipe):
        return
    if name == "cudnn_causal":
        raise UserError(
            f"TransformerConfig.attention is {name!r}, which lets every token see all tokens before it, but this "
            f"recipe's rows do not: set ISOLATE_DOCUMENTS=False and CausalLM alone, or attention to {AUTO!r}"
        )
    others = [objective.name for objective in recipe.data.every_objective if not _is_causal(objective)]
    raise UserError(
        f"TransformerConfig.attention is {name!r}, which lets no token see a later one, but in rows of "
        f"{', '.join(others)} some do; set it to {AUTO!r}"
    )


def refuse_uneven_rows(length: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises a UserError unless each share of the axis `sequence` has as many tokens of a row."""
    shares = mesh.shape["sequence"]
    if length % shares:
        raise UserError(
            f"SEQUENCE_LENGTH {length} does not divide over MeshConfig.sequence={shares}; "
            f"try {-(-length // shares) * shares}"
        )


def suits_rows(name: str, recipe: Recipe) -> bool:
    """Whether in every row of every objective a token sees what an implementation of `CAUSAL_ALONE` lets it see."""
    objectives = recipe.data.every_objective
    if name == "tokamax_causal":  # all tokens from the lower end of its interval up to itself
        return all(map(_is_causal, objectives))
    only_causal = all(isinstance(objective, CausalLM) for objective in objectives)
    return only_causal and not recipe.data.isolate_documents and not any(recipe.model.window_pattern)


def _is_causal(objective: Objective | PackingObjective) -> bool:
    return getattr(objective, "is_causal", False)
