"""The decoder: Flax Linen modules, their config, attention and the loss head."""
