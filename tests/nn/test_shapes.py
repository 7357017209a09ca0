"""Blocks refuse arrays of a wrong shape, and interleaving has an inverse."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tipr_jax.nn.attention import attend
from tipr_jax.nn.bert import BertStack
from tipr_jax.nn.clip_text import end_token
from tipr_jax.nn.dropout import drop_path_from_uniform, dropout
from tipr_jax.nn.fusion import FusionEncoder
from tipr_jax.nn.interleave import deinterleave, interleave, interleaved_keys
from tipr_jax.nn.shared_trunk import SharedTrunk
from tipr_jax.nn.vit import PatchEmbed
from tipr_jax.nn.xlm_roberta import XlmRoberta
from tipr_jax.precision import ComputePolicy


def make(module: type[nnx.Module], *sizes: int, **options) -> Callable[[], nnx.Module]:
    return lambda: module(*sizes, policy=ComputePolicy(), rngs=nnx.Rngs(0), **options)


def ids(*shape: int) -> jax.Array:
    return jnp.zeros(shape, int)


def test_functions():
    q, k = jnp.zeros((2, 5, 2, 8)), jnp.zeros((2, 7, 2, 8))
    wrong = {
        "batch of keys": lambda: attend(q, k[:1], k[:1], "xla"),
        "heads": lambda: attend(q, k[:, :, :1], k[:, :, :1], "xla"),
        "mask of queries": lambda: attend(q, k, k, "xla", key_mask=jnp.ones((2, 5), bool)),
        "ids": lambda: end_token(jnp.zeros((2, 5, 8)), ids(2, 4)),
        "keys": lambda: dropout(q, jax.random.split(jax.random.key(0), 3), 0.5),
        "one branch": lambda: drop_path_from_uniform(jnp.zeros((2, 3, 1)), 0.5),
        "unequal batches": lambda: interleave([q, q[:1]]),
        "odd rows": lambda: deinterleave(q[:, 0], 3),
    }
    for what, call in wrong.items():
        with pytest.raises(AssertionError):
            call()
            pytest.fail(f"{what}: not refused")


def test_modules():
    sizes = dict(width=16, depth=1, heads=2)
    patches = make(PatchEmbed, 16, 8, 8)
    fusion = make(FusionEncoder, 64, 1)
    stack = make(BertStack, hidden=32, **sizes)
    roberta = make(XlmRoberta, vocab_size=9, max_positions=9, hidden=32, **sizes)
    trunk = make(
        SharedTrunk, image_size=(8, 8), patch=8, stride=8, vocab_size=9, max_positions=9,
        image_ffn=32, text_ffn=32, **sizes,
    )  # fmt: skip
    tokens, mask = jnp.zeros((2, 5, 16)), jnp.ones((2, 5), bool)
    wrong = {
        "channels first": lambda: patches()(jnp.zeros((2, 3, 8, 8))),
        "width of the image tokens": lambda: fusion()(jnp.zeros((2, 5, 64)), jnp.zeros((2, 3, 32))),
        "rows of the context": lambda: stack()(tokens, tokens[:1], mask),
        "length of the mask": lambda: stack()(tokens, tokens, mask[:, :4]),
        "tokens of other rows": lambda: stack()(tokens, tokens, mask, at=ids(1, 1)),
        "mask of other texts": lambda: roberta()(ids(2, 5), mask[:1]),
        "mask of the trunk": lambda: trunk().text_tokens(ids(2, 5), key_mask=mask[:, :4]),
    }
    for what, call in wrong.items():
        with pytest.raises(AssertionError):
            jax.eval_shape(call)  # shapes alone: nothing is computed
            pytest.fail(f"{what}: not refused")


def test_interleave():
    a, b = np.arange(6).reshape(3, 2), 10 + np.arange(6).reshape(3, 2)
    mixed = interleave([jnp.asarray(a), jnp.asarray(b)])
    np.testing.assert_array_equal(mixed[:, 0], [0, 10, 2, 12, 4, 14])
    for got, want in zip(deinterleave(mixed, 2), (a, b), strict=True):
        np.testing.assert_array_equal(got, want)
    keys = interleaved_keys(jax.random.split(jax.random.key(0), 3), 2)
    assert keys.shape == (6,) and len(np.unique(jax.random.key_data(keys), axis=0)) == 6
    assert interleaved_keys(None, 2) is None
