"""The one token that a tower's feature needs equals that token of the whole sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tipr_jax.models.irra import Config, Irra
from tipr_jax.nn.clip_text import end_token
from tipr_jax.nn.fusion import FusionEncoder
from tipr_jax.nn.init import BlockInit
from tipr_jax.nn.transformer import Block, apply_blocks, apply_blocks_at, stack_layers
from tipr_jax.precision import ComputePolicy


@pytest.mark.parametrize("depth", [1, 2, 6])  # no layer before the last one, flat, a loop
@pytest.mark.parametrize("causal", [False, True])
def test_one_token_of_the_stack(depth: int, causal: bool):
    rngs, policy = nnx.Rngs(0), ComputePolicy()
    init = BlockInit.torch_default(64)
    blocks = stack_layers(lambda r: Block(64, 2, init, policy, rngs=r), depth, rngs=rngs)
    x = jax.random.normal(jax.random.key(1), (4, 7, 64))
    position = jnp.array([0, 6, 3, 1])  # the first token, the last one, two between

    def whole(blocks: Block, x: jax.Array) -> jax.Array:
        return apply_blocks(blocks, x, causal=causal)[jnp.arange(4), position]

    def alone(blocks: Block, x: jax.Array) -> jax.Array:
        return apply_blocks_at(blocks, x, position, causal=causal)

    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(alone(blocks, x), whole(blocks, x), rtol=1e-5, atol=1e-5)
        grads = [
            jax.jit(jax.grad(lambda b, x, f=f: jnp.sum(jnp.sin(f(b, x))), (0, 1)))(blocks, x)
            for f in (alone, whole)
        ]
    for mine, expected in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=2e-5)


def test_features_of_both_towers():
    config = Config.tiny(text_depth=1, vision_depth=3)
    model = Irra(config, ComputePolicy(), rngs=nnx.Rngs(0))
    image = jax.random.normal(jax.random.key(0), (3, *config.image_size, 3))
    ids = np.ones((3, config.text_length), int)
    for row, end in enumerate((2, 5, config.text_length - 1)):
        ids[row, end:] = 0
        ids[row, end] = config.vocab_size - 1
    whole = model.image_encoder(image)[:, 0]
    np.testing.assert_allclose(model.image_encoder.feature(image), whole, rtol=1e-5, atol=1e-5)
    whole = end_token(model.text_encoder(ids), ids)
    np.testing.assert_allclose(model.text_encoder.feature(ids), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_some_fused_tokens(depth: int, groups: int):
    fusion = FusionEncoder(64, depth, ComputePolicy(), rngs=nnx.Rngs(0))
    text, image = (jax.random.normal(jax.random.key(n), (4, 3 + n, 64)) for n in (3, 2))
    position = jnp.array([[0, 7, 11, 7]] * groups) % (4 // groups * 6)

    def whole(fusion: FusionEncoder, text: jax.Array, image: jax.Array) -> jax.Array:
        tokens = fusion(text, image).reshape(groups, -1, 64)
        return jnp.take_along_axis(tokens, position[..., None], axis=1)

    def some(fusion: FusionEncoder, text: jax.Array, image: jax.Array) -> jax.Array:
        return fusion.unfinished(text, image).at(position)

    def gradient(f):
        return jax.jit(jax.grad(lambda *args: jnp.sum(jnp.sin(f(*args))), (0, 1, 2)))

    with jax.default_matmul_precision("highest"):
        expected = whole(fusion, text, image)
        np.testing.assert_allclose(some(fusion, text, image), expected, rtol=1e-5, atol=1e-5)
        grads = [jax.tree.leaves(gradient(f)(fusion, text, image)) for f in (some, whole)]
    for mine, other in zip(*grads, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=2e-5)
