"""Parameter groups, learning rates, and update rules against torch."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import ivt
from configs.irra import get_config
from tipr_jax import optim


@pytest.mark.parametrize(
    "table, message",
    [
        ((("^head/", 1.0, True), ("^boody/", 1.0, True), (".*", 1.0, True)), "boody"),
        ((("^head/", 1.0, True),), "body/bias matches no pattern"),
    ],
)
def test_group_table_that_does_not_fit(table, message):
    params = {"body": {"bias": jnp.zeros(1)}, "head": {"kernel": jnp.zeros(1)}}
    with pytest.raises(ValueError, match=message):
        optim.parameter_groups(params, table)


def test_unknown_names_are_errors():
    cfg, schedule = get_config().optimizer, get_config().schedule
    schedule.name = "cosin"
    with pytest.raises(ValueError, match="schedule.name is 'cosin'"):
        optim.learning_rate_table(schedule, 1.0, (1.0,))
    cfg.name, cfg.groups = "Adamm", ((".*", 1.0, True),)
    with pytest.raises(ValueError, match="optimizer.name is 'Adamm'"):
        optim.make_optimizer(cfg, get_config().schedule, {"w": jnp.zeros(1)}, 1)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_same_steps_as_torch(name):
    import torch

    rng = np.random.default_rng(0)
    start = {"w": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}
    start = {k: x.astype(np.float32) for k, x in start.items()}
    draw = lambda: {k: rng.normal(size=x.shape).astype(np.float32) for k, x in start.items()}  # noqa: E731
    grads = [draw() for _ in range(5)]
    cfg, schedule = get_config().optimizer, get_config().schedule
    schedule.update({"name": "constant", "warmup_epochs": 0})
    cfg.update({"name": name, "learning_rate": 0.05, "weight_decay": 0.1})
    cfg.groups = (("bias$", 2.0, False), (".*", 1.0, True))
    cfg.eps = 1e-8 if name == "adamw" else 1e-3

    there = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in start.items()}
    torch_groups = [
        {"params": [there["w"]], "lr": 0.05, "weight_decay": 0.1},
        {"params": [there["bias"]], "lr": 0.1, "weight_decay": 0.0},
    ]
    reference = {
        "adam": lambda: torch.optim.Adam(torch_groups, eps=cfg.eps),
        "adamw": lambda: torch.optim.AdamW(torch_groups, eps=cfg.eps),
        "sgd": lambda: torch.optim.SGD(torch_groups, momentum=0.9),
    }[name]()
    params = {k: jnp.asarray(x) for k, x in start.items()}
    optimizer, _ = optim.make_optimizer(cfg, schedule, params, 1)
    state = optimizer.init(params)
    for grad in grads:
        for key, value in there.items():
            value.grad = torch.tensor(grad[key])
        reference.step()
        updates, state = optimizer.update(
            {k: jnp.asarray(g) for k, g in grad.items()}, state, params
        )
        params = optax.apply_updates(params, updates)
    for key in start:
        np.testing.assert_allclose(params[key], there[key].detach().numpy(), rtol=2e-5, atol=2e-6)


def test_rate_is_constant_within_an_epoch():
    cfg, schedule = get_config().optimizer, get_config().schedule
    cfg.update({"name": "sgd", "learning_rate": 1.0, "weight_decay": 0.0, "momentum": 0.0})
    cfg.groups = ((".*", 1.0, True),)
    schedule.update({"num_epochs": 6, "warmup_epochs": 2})
    params = {"w": jnp.zeros(())}
    optimizer, table = optim.make_optimizer(cfg, schedule, params, steps_per_epoch=3)
    state, rates = optimizer.init(params), []
    for _ in range(18):
        updates, state = optimizer.update({"w": jnp.ones(())}, state, params)
        rates.append(-float(updates["w"]))
    np.testing.assert_allclose(rates, np.repeat(table[:, 0], 3), rtol=1e-6)


def test_an_epoch_zero_is_one_more():
    """Released IVT: epochs 1 to 120 on CUHK-PEDES, 0 to 120 on the others; the last at the floor."""
    tables = {}
    for name in ("cuhk_pedes_released", "icfg_pedes_released"):
        config = ivt.get_config(name)
        config.schedule.update({"num_epochs": 12, "warmup_epochs": 3})
        tables[name] = optim.learning_rate_table(config.schedule, 0.005, (1.0,))[:, 0]
        assert optim.epochs(config.schedule) == len(tables[name])
    cuhk, icfg = tables.values()
    assert (len(cuhk), len(icfg)) == (12, 13)
    np.testing.assert_array_equal(icfg[1:], cuhk)
    assert icfg[0] == 5e-5 and icfg[-1] == 1e-5
