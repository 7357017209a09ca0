"""Parameter groups, learning rates, and update rules against torch."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from configs import ivt
from configs.irra import get_config
from tipr_jax import experiment, optim
from tipr_jax.param_tree import flatten
from tipr_jax.pretrained import irra, key_table


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
    """Released IVT: epochs 1 to 120 on CUHK-PEDES, 0 to 120 on the others."""
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
    config.optimizer.update({"name": "sgd", "momentum": 0.0, "weight_decay": 0.0})
    config.optimizer.groups = ((".*", 1.0, True),)
    optimizer, _ = optim.make_optimizer(config.optimizer, config.schedule, {"w": jnp.zeros(())}, 2)
    state, rates = optimizer.init({"w": jnp.zeros(())}), []
    for _ in range(26):
        updates, state = optimizer.update({"w": jnp.ones(())}, state, {"w": jnp.zeros(())})
        rates.append(-float(updates["w"]))
    np.testing.assert_allclose(rates, np.repeat(icfg, 2), rtol=1e-6)


def test_the_released_float16_keeps_what_the_release_keeps(golden_dtypes):
    """Which parameters are float16, by the list of a released checkpoint."""
    config = get_config()
    params = experiment.build(config).abstract_params
    half = flatten(optim.named_like(params, config.optimizer.float16))
    for key, (row, _) in key_table.torch_keys(params, irra.TABLE).items():
        assert half[row.path] == (golden_dtypes[key] == "float16"), key


@pytest.fixture
def golden_dtypes():
    path = Path(__file__).parents[1] / "golden" / "irra" / "vitb16_params.json"
    return {entry["key"]: entry["dtype"] for entry in json.loads(path.read_text())}


def test_float16_without_master_copy_steps_as_torch():
    """Adam on float16 tensors in PyTorch, eps 1e-3 as released, step for step from its own state.

    The reference also rounds inside of a step, so what is left differs by a unit in the last place.
    """
    rng = np.random.default_rng(0)
    there = torch.tensor(rng.normal(size=2000).astype(np.float16), requires_grad=True)
    reference = torch.optim.Adam([there], lr=1e-3, eps=1e-3)
    half = {"w": True}
    adam = optim.scale_by_float16_adam(0.9, 0.999, 1e-3, half)
    optimizer = optim.without_master_copy([adam, optax.scale(-1e-3)], half)
    step = jax.jit(optimizer.update)
    float32 = lambda x: {"w": jnp.asarray(x.detach().float().numpy())}  # noqa: E731
    state, equal = optimizer.init(float32(there)), []
    for grad in (0.1 * rng.normal(size=(30, 2000))).astype(np.float16):
        before, there.grad = float32(there), torch.tensor(grad)
        reference.step()
        updates, (moments, *_) = step({"w": jnp.asarray(grad, jnp.float32)}, state, before)
        theirs = reference.state[there]
        pairs = [
            (optax.apply_updates(before, updates)["w"], there.detach()),
            (moments.mu["w"], theirs["exp_avg"]),
            (moments.nu["w"], theirs["exp_avg_sq"]),
        ]
        for found, want in ((np.asarray(a), b.numpy()) for a, b in pairs):
            np.testing.assert_array_equal(found, found.astype(np.float16))
            # The unit of the terms, for the result of terms that cancel is small and its unit, too;
            # an update of 1e-3 is itself a quotient of rounded numbers, a few units exact.
            terms = np.maximum(np.abs(want), np.maximum(np.abs(grad) * 0.1, 8e-3)).astype("f2")
            assert (np.abs(found - want.astype(np.float32)) <= np.spacing(terms)).all()
            equal.append((found == want).mean())
        mu, nu = float32(theirs["exp_avg"]), float32(theirs["exp_avg_sq"])
        state = (moments._replace(mu=mu, nu=nu), *state[1:])
    assert np.mean(equal) > 0.9


def test_float16_without_master_copy_loses_what_the_release_loses():
    sgd = optim.without_master_copy([optax.sgd(1.0)], {"half": True, "whole": False})
    params = {"half": jnp.ones(3), "whole": jnp.ones(3)}
    grads = jnp.array([1e-8, 1e-4, 1e-2])  # vanishes; less than half a unit of 1.0; arrives
    updates, _ = sgd.update({"half": grads, "whole": grads}, sgd.init(params), params)
    moved = {k: np.asarray(u != 0).tolist() for k, u in updates.items()}
    assert moved == {"half": [False, False, True], "whole": [True, True, True]}


def test_precision_without_a_pattern_is_refused():
    config = ivt.get_config("debug")
    config.precision = "float16_released"
    with pytest.raises(ValueError, match="optimizer.float16 names no parameters"):
        experiment.make_optimizer(experiment.build(config), 10)
