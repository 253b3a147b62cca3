"""Whether a training step's layers are compiled as one, which runs in a loop, or each by itself."""

import dataclasses

from jax.sharding import Mesh

from t5x_code.models.config import TransformerConfig


def settle_layer_loop(model: TransformerConfig, mesh: Mesh) -> TransformerConfig:
    """The model as a step trains it: what it says of its loop, or else a loop, but for one GPU that keeps much.

    A loop compiles in a time that does not grow with the layers. But what the backward pass needs of each layer is
    copied into one array of all layers and out of it again, which no kernel of a GPU does on its way: a tenth of the
    time of codegen2 1B on one H200. Under remat "full" that is one small array of each layer, and the loop takes less
    memory, as it does with attention by chunks, which loops itself. Several devices gather one layer's parameters at a
    time, an order that the loop keeps. Without a backward pass nothing is kept: elsewhere layers are in a loop.
    """
    is_one_gpu = mesh.size == 1 and mesh.devices.flat[0].platform == "gpu"
    if model.scan_layers is None and is_one_gpu and model.remat != "full" and model.attention != "chunked":
        return dataclasses.replace(model, scan_layers=False)
    return model
