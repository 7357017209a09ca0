"""Nested dicts of parameters by their paths: {"image_encoder/blocks/attn/qkv/bias": array}."""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util

Params = dict[str, Any]  # nested dict of arrays


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict -> {path: leaf}."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(leaves, sep="/")
