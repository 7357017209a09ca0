"""Identity and masked-word losses: padding rows, and a batch without a masked word."""

import jax.numpy as jnp
import numpy as np

from tipr_jax.losses.classification import identity_loss, masked_lm_loss


def test_identity_loss_ignores_padding_rows():
    rng = np.random.default_rng(0)
    image, text = jnp.asarray(rng.normal(size=(2, 8, 5)), jnp.float32)
    person = jnp.asarray(rng.integers(0, 5, 8))
    padded = identity_loss(image, text, person, jnp.arange(8) < 6)
    np.testing.assert_allclose(padded, identity_loss(image[:6], text[:6], person[:6]), rtol=1e-6)


def test_no_masked_word_gives_zero():
    """The released loss is NaN here (deliberate deviation)."""
    loss, accuracy = masked_lm_loss(jnp.ones((4, 7)), jnp.zeros(4, int))
    assert float(loss) == 0.0 and float(accuracy) == 0.0
