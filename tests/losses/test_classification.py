"""Identity and masked-word losses: padding rows, and a batch without a masked word."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tipr_jax.losses.classification import cross_entropy, identity_loss
from tipr_jax.losses.masked_words import masked_word_loss, of_tokens


def test_identity_loss_ignores_padding_rows():
    rng = np.random.default_rng(0)
    image, text = jnp.asarray(rng.normal(size=(2, 8, 5)), jnp.float32)
    person = jnp.asarray(rng.integers(0, 5, 8))
    padded = identity_loss(image, text, person, jnp.arange(8) < 6)
    np.testing.assert_allclose(padded, identity_loss(image[:6], text[:6], person[:6]), rtol=1e-6)


def test_no_masked_word_gives_zero():
    """The released loss is NaN here (deliberate deviation)."""
    tokens, labels = jnp.ones((2, 4, 8)), jnp.zeros((2, 4), int)
    kernel, bias = jnp.ones((8, 7)), jnp.zeros(7)
    for at_a_time in (1, 100):
        loss, accuracy = masked_word_loss(
            of_tokens,
            tokens,
            kernel,
            bias,
            labels,
            jnp.zeros((), int),
            at_a_time=at_a_time,
        )
        assert float(loss) == 0.0 and float(accuracy) == 0.0


@pytest.mark.parametrize("at_a_time", [1, 3, 4, 12, 50])
@pytest.mark.parametrize("labelled", [0, 1, 7, 24])
def test_masked_words_in_passes_equal_all_logits_at_once(at_a_time, labelled):
    """Value, accuracy and every gradient, also where an upstream factor scales them."""
    rng = np.random.default_rng(labelled)
    tokens, kernel, bias = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 12, 8), (8, 30), (30,))
    )
    labels = np.zeros(24, int)
    labels[rng.choice(24, labelled, replace=False)] = rng.integers(1, 30, labelled)
    labels = jnp.asarray(labels.reshape(2, 12))

    def passes(tokens, kernel, bias):
        total = jnp.sum(labels != 0)
        out = masked_word_loss(of_tokens, tokens, kernel, bias, labels, total, at_a_time=at_a_time)
        return 3 * out[0], out[1]

    def at_once(tokens, kernel, bias):
        out = cross_entropy(tokens @ kernel + bias, labels, labels != 0)
        return 3 * out[0], out[1]

    found, want = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))(tokens, kernel, bias)
        for f in (passes, at_once)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, want)
    np.testing.assert_allclose(
        passes(tokens, kernel, bias)[0], want[0][0], rtol=1e-5
    )  # no gradient
