"""The split of a set into train and test as a pure function of each image's own name.

An image's place is decided by a hash of its key, not by a random generator: it does not depend on the
versions of torch or numpy, and in a folder it does not change when other images come or go.
"""

from __future__ import annotations

import hashlib


def uniform_hash(*key: int | str) -> float:
    """A number in [0, 1) that is a function of `key` alone, uniform over keys (the first 53 bits of
    SHA-256)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
