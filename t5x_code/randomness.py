"""Randomness by key instead of by order: what is drawn for a row does not depend on what was drawn before."""

import hashlib

import numpy as np


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of the parts' text, equal in every process and on every machine (Python's own `hash` is not)."""
    return int.from_bytes(_digest(parts, 8), "little")


def keyed_generator(*parts: object) -> np.random.Generator:
    """A generator of its own for each tuple of parts: counter-based Philox under a 128-bit key."""
    return np.random.Generator(np.random.Philox(key=np.frombuffer(_digest(parts, 16), np.uint64)))


def _digest(parts: tuple[object, ...], size: int) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=size).digest()
