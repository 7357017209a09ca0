"""BEiT's relative positions, masks and stochastic depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tipr_jax.nn.beit import Beit, relative_position_index
from tipr_jax.nn.pos_embed import num_relative_distance
from tipr_jax.precision import ComputePolicy


@functools.cache
def make(drop_path_rate: float = 0.1) -> Beit:
    def build(key: jax.Array) -> Beit:
        return Beit(
            image_size=(24, 16),
            patch=8,
            width=16,
            depth=3,
            heads=2,
            policy=ComputePolicy(),
            drop_path_rate=drop_path_rate,
            rngs=nnx.Rngs(key),
        )

    return jax.jit(build)(jax.random.key(0))


@jax.jit
def run(model: Beit, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    return model(image, keys)


@pytest.mark.parametrize("grid", [(3, 2), (1, 4), (5, 5)])
def test_index_depends_on_the_offset_alone(grid):
    index, (rows, cols) = relative_position_index(grid), grid
    n, at = num_relative_distance(grid), [(r, c) for r in range(rows) for c in range(cols)]
    assert index.max() == n - 1 and index[0, 0] == n - 1
    assert set(index[0, 1:]) == {n - 3} and set(index[1:, 0]) == {n - 2}
    by_offset = {}
    for i, (r, c) in enumerate(at):
        for j, (s, d) in enumerate(at):
            by_offset.setdefault((r - s, c - d), set()).add(int(index[1 + i, 1 + j]))
    values = [v for group in by_offset.values() for v in group]
    assert len(values) == len(set(values)) == n - 3  # one row of the table per offset


def test_hidden_patches_are_not_seen():
    """The pixels of a hidden patch change nothing; without the mask they do."""
    model, rng = make(), np.random.default_rng(0)
    image = rng.normal(size=(2, 24, 16, 3)).astype(np.float32)
    mask = jnp.asarray(np.arange(6)[None] == 3).repeat(2, axis=0)  # row 1, column 1
    changed = image.copy()
    changed[:, 8:16, 8:16] += 1.0
    both = jax.jit(lambda m, x: m.clean_and_masked(x, mask))
    clean, masked = both(model, image)
    clean_2, masked_2 = both(model, changed)
    np.testing.assert_array_equal(masked, masked_2)
    assert np.abs(clean - clean_2).max() > 1e-3
    np.testing.assert_allclose(clean, run(model, image), atol=1e-6)
    assert np.abs(clean - masked).max() > 1e-3


def test_token_zero_is_the_mean_of_the_patches():
    image = np.random.default_rng(1).normal(size=(2, 24, 16, 3)).astype(np.float32)
    tokens = np.asarray(run(make(), image))
    np.testing.assert_allclose(tokens[:, 0], tokens[:, 1:].mean(axis=1), atol=1e-6)


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean():
    model = make(drop_path_rate=0.5)
    image = np.random.default_rng(2).normal(size=(1, 24, 16, 3)).astype(np.float32)
    image = np.repeat(image, 512, axis=0)
    dropped = np.asarray(run(model, image, jax.random.split(jax.random.key(0), 512)))
    # Two blocks can lose two branches each: at most 16 different results for one image.
    assert 8 <= len(np.unique(dropped.round(5).reshape(512, -1)[:, :40], axis=0)) <= 16
    whole = run(make(drop_path_rate=0.0), image, jax.random.split(jax.random.key(0), 512))
    np.testing.assert_array_equal(whole, run(model, image))


def test_deep_blocks_start_small():
    kernel = np.asarray(make().blocks.mlp.fc_out.kernel[...])
    stds = kernel.reshape(3, -1).std(axis=1) * np.sqrt(2 * np.arange(1, 4))
    np.testing.assert_allclose(stds, 0.02 * np.sqrt(768 / 16), rtol=0.1)
