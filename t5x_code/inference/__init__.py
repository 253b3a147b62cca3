"""Decoding with a key/value cache, sampling and infilling."""
