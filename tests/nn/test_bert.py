"""BERT's layers: some tokens alone are what a pass over all tokens gives them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tipr_jax.nn.bert import BertStack
from tipr_jax.precision import ComputePolicy


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("cross", [True, False])
def test_some_tokens(depth, cross):
    """Repeated positions, padding among them: the same values and gradients."""
    stack = BertStack(
        width=16, depth=depth, heads=2, hidden=32, policy=ComputePolicy(), cross=cross,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    graph, params = nnx.split(stack)
    x, context = (jax.random.normal(jax.random.key(i), (3, n, 16)) for i, n in ((0, 7), (1, 5)))
    mask = jnp.arange(7) < jnp.array([[7], [4], [1]])
    at = jnp.array([[0, 6], [3, 3], [5, 0]])

    def loss(params: nnx.State, x: jax.Array, few: bool) -> tuple[jax.Array, jax.Array]:
        call = lambda at: nnx.merge(graph, params)(x, context if cross else None, mask, at=at)  # noqa: E731
        y = call(at) if few else jnp.take_along_axis(call(None), at[..., None], axis=1)
        return jnp.sum(jnp.sin(y)), y

    with jax.default_matmul_precision("highest"):
        run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
        few, every = run(params, x, True), run(params, x, False)
    assert few[1].shape == (3, 2, 16)
    for mine, expected in zip(*map(jax.tree.leaves, (few, every)), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)
