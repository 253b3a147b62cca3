"""Losses, optimizer, train state, train step, loop and metrics."""
