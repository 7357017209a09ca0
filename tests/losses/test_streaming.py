"""Streaming losses equal the dense ones, without B x B matrices, on one device and on eight."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from tipr_jax import sharding
from tipr_jax.losses import contrastive, dense, streaming
from tipr_jax.losses.contrastive import cmpm_loss, itc_loss, sdm_loss
from tipr_jax.losses.pair_targets import count_equal

LOSSES = ("sdm", "sdm_soft", "itc", "cmpm")


def in_blocks(block: int) -> contrastive.SoftmaxTerms:
    return functools.partial(streaming.softmax_terms, block=block)


def loss(name: str, implementation, image, text, scale, person, images, valid) -> jax.Array:
    options = dict(valid=valid, implementation=implementation)
    scaled = functools.partial(dict, logit_scale=scale)
    match name:
        case "sdm":
            return sdm_loss(
                image, text, person, valid=valid, implementation=implementation, **scaled()
            )
        case "sdm_soft":
            soft = scaled(image_id=images, factor=0.3)
            return sdm_loss(image, text, person, **options, **soft)
        case "itc":
            return itc_loss(image, text, **options, **scaled())
        case "cmpm":
            return cmpm_loss(image, text, person, **options)


def batch(rows: int, width: int = 16) -> tuple:
    """Features of pairs that resemble each other, repeated ids, an image id shared by persons."""
    rng = np.random.default_rng(rows)
    image, noise = rng.normal(size=(2, rows, width)).astype(np.float32)
    person = rng.integers(0, max(2, rows // 3), rows).astype(np.int32)
    images = rng.integers(0, max(2, rows // 2), rows).astype(np.int32)
    return jnp.asarray(image), jnp.asarray(image + noise), 20.0, person, images


@pytest.mark.parametrize("rows, block, padded", [(24, 8, False), (26, 8, True), (24, 64, True)])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_equal_the_dense_form(name, rows, block, padded):
    """Blocks that divide the batch, that do not, and one block; gradient of the scale included."""
    *features, person, images = batch(rows)
    valid = jnp.arange(rows) < rows - 5 if padded else None

    def gradient(implementation):
        function = functools.partial(
            loss, name, implementation, person=person, images=images, valid=valid
        )
        return jax.jit(jax.value_and_grad(function, (0, 1, 2)))(*features)

    value, grads = gradient(in_blocks(block))
    want, want_grads = gradient(dense.softmax_terms)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        # The scale's gradient is a difference of sums about as large as the loss.
        limit = 1e-5 * (np.abs(want_grad).max() + (value / features[2] if grad.ndim == 0 else 0))
        np.testing.assert_allclose(grad, want_grad, rtol=0, atol=limit)
    if padded:
        assert not np.any(grads[0][-5:]) and not np.any(grads[1][-5:])


def test_counts_of_equal_ids():
    ids, valid = jnp.asarray([5, -1, 5, 2**31 - 1, 5, -1]), jnp.asarray([1, 1, 0, 1, 1, 1], bool)
    np.testing.assert_array_equal(count_equal(ids, valid), [2, 2, 2, 1, 2, 2])


@pytest.mark.parametrize("name", LOSSES)
def test_large_batches_stream(name):
    """From STREAMING_FROM rows on, nothing of B x B is computed, forward or backward."""

    def largest(rows: int) -> int:
        image, text, *rest = batch(rows, width=4)
        function = functools.partial(loss, name, None)
        step = jax.make_jaxpr(jax.grad(function, (0, 1)))(image, text, *rest, jnp.ones(rows, bool))
        shapes = re.findall(r"\w+\[([\d,]+)\]", str(step))
        return max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)

    rows = contrastive.STREAMING_FROM
    assert largest(rows - 1) == (rows - 1) ** 2
    assert largest(2 * rows) == 2 * rows * streaming.BLOCK


def compile_on(mesh: Mesh, name: str, rows: int, block: int):
    cut = sharding.batch_sharding(mesh, sharding.RULES["data_parallel"])
    image, text, scale, *ids = batch(rows)
    valid = np.ones(rows, bool)

    def step(image, text, person, images, valid):
        function = functools.partial(loss, name, in_blocks(block))
        return jax.value_and_grad(function, (0, 1))(image, text, scale, person, images, valid)

    out = sharding.replicated(mesh), cut
    compiled = jax.jit(step, in_shardings=cut, out_shardings=out)
    return compiled.lower(image, text, *ids, valid).compile(), (image, text, *ids, valid), cut


@pytest.mark.parametrize("name", ["sdm_soft", "cmpm"])
def test_eight_devices_hold_an_eighth(name):
    """Under plain jit the partitioner keeps B/N queries x one block per device."""
    rows, block, results = 1024, 64, {}
    for n in (1, 8):
        mesh = jax.make_mesh(
            (n, 1), ("data", "model"), devices=jax.devices()[:n], axis_types=(AxisType.Auto,) * 2
        )
        compiled, arguments, cut = compile_on(mesh, name, rows, block)
        results[n] = compiled, jax.device_get(compiled(*jax.device_put(arguments, cut)))
    one, eight = (results[n][0].memory_analysis().temp_size_in_bytes for n in (1, 8))
    assert eight < one / 5
    shapes = re.findall(r"\[([\d,]+)\]", results[8][0].as_text())
    sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in shapes]
    assert max(sizes) == rows * block // 8
    for ours, want in zip(
        jax.tree.leaves(results[8][1]), jax.tree.leaves(results[1][1]), strict=True
    ):
        np.testing.assert_allclose(ours, want, rtol=0, atol=1e-5 * np.abs(want).max())
