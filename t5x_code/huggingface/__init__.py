"""Hugging Face checkpoints in and out: one file per family says where its config and its tensors go, both ways."""
