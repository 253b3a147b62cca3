"""Checkpoints of transformers, in and out: one file per family."""
