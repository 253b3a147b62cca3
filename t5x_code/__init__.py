"""t5x_code: pretrains code language models in JAX, from raw text to an infilling model."""

__version__ = "0.1.0"
