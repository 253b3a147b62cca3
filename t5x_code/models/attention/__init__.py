"""Attention by the interval rule: one function, and one file per way to compute it."""
