"""Random numbers keyed by what they are for: no global state, so order and parallelism change nothing."""

import hashlib
import json

import numpy as np


def key(*parts: str | int) -> int:
    """A 63-bit seed that depends on every part and its position, the same in every process and on every machine."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: str | int) -> np.random.Generator:
    """A NumPy generator seeded with `key(*parts)`."""
    return np.random.default_rng(key(*parts))
