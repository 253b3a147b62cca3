"""Model directory; saving, verifying and restoring training states."""
