"""The laws that padding and order must obey in SDM, ITC and CMPM."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tipr_jax.losses.contrastive import cmpm_loss, in_groups, itc_loss, sdm_loss


def losses(person_id, image_id, scale, valid=None) -> dict:
    """Name -> function of (image_embed, text_embed)."""
    soft = {"logit_scale": scale, "image_id": image_id, "valid": valid}
    return {
        "sdm": lambda a, b: sdm_loss(a, b, person_id, logit_scale=scale, valid=valid),
        "sdm_imgid": lambda a, b: sdm_loss(a, b, person_id, **soft),
        "sdm_imgid_f0.5_eps1e-6": lambda a, b: sdm_loss(
            a, b, person_id, factor=0.5, epsilon=1e-6, **soft
        ),
        "itc": lambda a, b: itc_loss(a, b, logit_scale=scale, valid=valid),
        "cmpm": lambda a, b: cmpm_loss(a, b, person_id, valid=valid),
    }


NAMES = tuple(losses(None, None, None))


def batch(rows: int, seed: int = 0) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    image, text = rng.normal(size=(2, rows, 16)).astype(np.float32)
    person = rng.integers(0, max(2, rows // 2), rows)
    return jnp.asarray(image), jnp.asarray(text), jnp.asarray(person), jnp.arange(rows) // 2


@pytest.mark.parametrize("name", NAMES)
def test_padding_rows_change_nothing(name):
    """Value and gradients equal those of the batch without the padding rows, whatever they hold."""
    image, text, person, images = batch(12)
    short = losses(person[:9], images[:9], 5.0)[name]
    padded = losses(person, images, 5.0, valid=jnp.arange(12) < 9)[name]
    want, want_grads = jax.jit(jax.value_and_grad(short, (0, 1)))(image[:9], text[:9])
    value, grads = jax.jit(jax.value_and_grad(padded, (0, 1)))(image, text)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(grad[:9], want_grad, rtol=1e-4, atol=1e-6)
        assert not np.any(grad[9:])


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_batch_changes_nothing(name):
    image, text, person, images = batch(10)
    order = np.random.default_rng(1).permutation(10)
    function = jax.jit(lambda a, b, *ids: losses(*ids, 5.0)[name](a, b))
    value = function(image, text, person, images)
    shuffled = function(image[order], text[order], person[order], images[order])
    np.testing.assert_allclose(shuffled, value, rtol=1e-5)


@pytest.mark.parametrize("name", ["sdm", "cmpm"])
def test_groups_are_separate_losses_averaged(name):
    """4 x 28 rows in one batch are four GPUs with 28 each: value and gradients."""
    image, text, person, _ = batch(112)
    valid = jnp.arange(112) < 100  # the last GPU has padding
    loss = {"sdm": functools.partial(sdm_loss, logit_scale=5.0), "cmpm": cmpm_loss}[name]

    def together(a, b):
        return in_groups(loss, 28, a, b, person, valid=valid)

    def apart(a, b):
        cuts = [slice(start, start + 28) for start in range(0, 112, 28)]
        return sum(loss(a[c], b[c], person[c], valid=valid[c]) for c in cuts) / 4

    found, found_grads = jax.value_and_grad(together, (0, 1))(image, text)
    want, want_grads = jax.value_and_grad(apart, (0, 1))(image, text)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    for grad, want_grad in zip(found_grads, want_grads, strict=True):
        np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=1e-7)
    whole = loss(image, text, person, valid=valid)
    for group in (0, 112, 500):
        np.testing.assert_array_equal(
            in_groups(loss, group, image, text, person, valid=valid), whole
        )


def test_a_group_of_padding_does_not_count():
    image, text, person, _ = batch(8)
    valid = jnp.arange(8) < 4
    found = in_groups(cmpm_loss, 4, image, text, person, valid=valid)
    np.testing.assert_allclose(found, cmpm_loss(image[:4], text[:4], person[:4]), rtol=1e-6)
    with pytest.raises(ValueError, match="8 rows cannot be cut into groups of 3"):
        in_groups(cmpm_loss, 3, image, text, person, valid=valid)


def test_sdm_is_zero_where_predictions_equal_labels():
    """Perfectly aligned one-hot features of distinct persons at a high scale."""
    eye = jnp.eye(4)
    assert abs(sdm_loss(eye, eye, jnp.arange(4), logit_scale=50.0)) < 1e-5
    assert sdm_loss(eye, eye[::-1], jnp.arange(4), logit_scale=50.0) > 10


@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes_raise(name):
    image, text, person, images = batch(6)
    function = losses(person, images, 5.0)[name]
    for wrong in ((image, text[:5]), (image[0], text[0]), (image, text[:, :8])):
        with pytest.raises(AssertionError):
            function(*wrong)
    if name != "itc":
        with pytest.raises(AssertionError):
            losses(person[:5], images, 5.0)[name](image, text)
