"""Tokenizers and the special tokens that every objective relies on. No JAX, no TensorFlow."""
