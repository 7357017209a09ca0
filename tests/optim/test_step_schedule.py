"""The schedule that changes with every step: warm-up and cosine of Bi-IRRA."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs.bi_irra import get_config
from tipr_jax import optim


def table(warmup: int, epochs: int, per_epoch: int, base: float = 5e-5) -> np.ndarray:
    schedule = get_config().schedule
    schedule.update({"num_epochs": epochs, "warmup_epochs": warmup})
    return optim.learning_rate_table(schedule, base, (1.0, 0.5), per_epoch)


def test_corners():
    """The last step of the warm-up and the first of the cosine both have the full rate."""
    rates = table(1, 10, 50)
    assert rates.shape == (500, 2)
    np.testing.assert_allclose(rates[[0, 49, 50], 0], [1e-6, 5e-5, 5e-5], rtol=1e-12)
    assert np.all(np.diff(rates[:50, 0]) > 0) and np.all(np.diff(rates[50:, 0]) < 0)
    assert 5e-6 < rates[-1, 0] < 5.01e-6
    np.testing.assert_allclose(rates[50, 1], 2.5e-5)


@pytest.mark.parametrize("warmup, first", [(0, 5e-5), (1, 1e-6)])
def test_warm_up_of_no_or_one_step(warmup, first):
    rates = table(warmup, 3, 1)
    np.testing.assert_allclose(rates[0, 0], first)
    assert len(rates) == 3 and np.all(np.isfinite(rates))


def test_the_optimizer_takes_a_row_per_step():
    cfg, schedule = get_config().optimizer, get_config().schedule
    cfg.update({"name": "sgd", "learning_rate": 1.0, "weight_decay": 0.0, "momentum": 0.0})
    cfg.groups = ((".*", 1.0, True),)
    schedule.update({"num_epochs": 3, "warmup_epochs": 1, "start_lr": 0.1, "target_lr": 0.0})
    params = {"w": jnp.zeros(())}
    optimizer, rates = optim.make_optimizer(cfg, schedule, params, steps_per_epoch=4)
    state, used = optimizer.init(params), []
    for _ in range(12):
        updates, state = optimizer.update({"w": jnp.ones(())}, state, params)
        used.append(-float(updates["w"]))
    np.testing.assert_allclose(used, rates[:, 0], rtol=1e-6)
    assert len(set(used)) >= 11
