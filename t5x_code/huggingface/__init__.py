"""Hugging Face checkpoints in and out: one file per family, which maps its config and its tensors both ways."""
