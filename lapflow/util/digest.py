"""Fingerprints of tensors, and what differs between two sets of settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What changes from the nested mapping `a` to `b`: lines `path: old -> new`."""
    before, after = _flat(a), _flat(b)
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}" for key in changed]


def _flat(values: Mapping[str, Any], at: str = "") -> dict[str, str]:
    """{the path of a value: the value in words}"""
    out: dict[str, str] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping) and value
        out |= _flat(value, f"{at}{key}.") if nested else {f"{at}{key}": repr(value)}
    return out
