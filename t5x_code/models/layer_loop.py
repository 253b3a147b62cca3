"""Whether the layers are compiled as one, which runs in a loop, or each by itself."""

import math

import jax

from t5x_code.models.config import TransformerConfig


def layers_in_loop(config: TransformerConfig) -> bool:
    """The config's own word, or else: in a loop, but for one GPU whose backward pass recomputes little.

    A loop compiles in a time that does not grow with the layers. But what the backward pass needs of each layer is
    copied into one array of all layers and out of it again, which no kernel of a GPU does on its way: a tenth of the
    time of codegen2 1B on one H200. Under remat "full" that is one small array of each layer, and the loop takes less
    memory, as it does with attention by chunks, which loops itself. Several devices gather one layer's parameters at a
    time, an order that the loop keeps.
    """
    if config.scan_layers is not None:
        return config.scan_layers
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device or jax.devices()[0]
    is_split = not mesh.empty and math.prod(mesh.axis_sizes) > 1
    return device.platform != "gpu" or is_split or config.remat == "full" or config.attention == "chunked"
