"""Parameter groups, learning rates and update rules against the released optimiser and torch."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.irra import get_config
from tipr_jax import optim
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import irra
from tipr_jax.pretrained.key_table import torch_keys
from tipr_jax.train_state import count_parameters, define_model

GOLDEN = Path(__file__).parents[1] / "golden" / "irra"


def test_groups_of_the_published_model():
    """Every tensor of the full ViT-B/16: name, shape, rate and decay; nothing is allocated."""
    golden = {r["key"]: r for r in json.loads((GOLDEN / "vitb16_params.json").read_text())}
    init = define_model(get_method("irra"), Config.vit_b16(), ComputePolicy())[2]
    params = jax.eval_shape(init, jax.random.key(0))
    assert count_parameters(params) == 194_535_419
    complete = params | {"logit_scale": 0.0}
    groups = optim.parameter_groups(params, tuple(get_config().optimizer.groups), complete)
    flat, index, decay = flatten(params), flatten(groups.index), flatten(groups.decay)
    keys = torch_keys(params, irra.TABLE)
    assert set(keys) == set(golden)
    for key, (row, layer) in keys.items():
        shape = flat[row.path].shape[layer is not None :]
        there = row.transform.to_torch(np.broadcast_to(np.int8(0), shape)).shape
        assert there == tuple(golden[key]["shape"]), key
        assert groups.multipliers[index[row.path]] == golden[key]["lr_mult"], key
        assert decay[row.path] * 4e-5 == golden[key]["weight_decay"], key


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


SCHEDULES = {
    "default_cosine60": {},
    "step60": {"name": "step"},
    "exp60": {"name": "exp"},
    "poly60": {"name": "poly"},
    "linear60": {"name": "linear"},
    "cosine60_target1e-6": {"target_lr": 1e-6},
    "poly60_target1e-6": {"name": "poly", "target_lr": 1e-6},
    "cosine20_constwarm": {"num_epochs": 20, "warmup_method": "constant"},
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedule(case):
    golden = np.load(GOLDEN / "lr_schedule.npz")[case]
    schedule = get_config().schedule
    schedule.update(SCHEDULES[case])
    table = optim.learning_rate_table(schedule, 1e-5, (1.0, 2.0, 5.0))
    np.testing.assert_allclose(table, golden[:-1], rtol=1e-9)  # the last row is never used
    last = [optim.learning_rate(schedule, len(table), 1e-5 * m) for m in (1, 2, 5)]
    np.testing.assert_allclose(last, golden[-1], rtol=1e-9, atol=1e-20)


def test_unknown_names_are_errors():
    cfg, schedule = get_config().optimizer, get_config().schedule
    schedule.name = "cosin"
    with pytest.raises(ValueError, match="schedule.name is 'cosin'"):
        optim.learning_rate_table(schedule, 1.0, (1.0,))
    cfg.name, cfg.groups = "Adamm", ((".*", 1.0, True),)
    with pytest.raises(ValueError, match="optimizer.name is 'Adamm'"):
        optim.make_optimizer(cfg, get_config().schedule, {"w": jnp.zeros(1)}, 1)


def test_adam_unit():
    """The released optimiser on a toy module whose names exercise every group rule."""
    golden = dict(np.load(GOLDEN / "adam_unit.npz"))
    hyper, names = json.loads(str(golden["hyper"])), [str(n) for n in golden["names"]]
    config = get_config()
    config.optimizer.update({k: hyper[k] for k in ("weight_decay", "eps")})
    config.optimizer.learning_rate = hyper["lr"]
    config.schedule.num_epochs = hyper["num_epoch"]

    def our_name(name: str) -> str:
        return ("fusion/" if name.startswith("cross") else "") + name.replace(".", "/")

    params = {our_name(n): jnp.asarray(golden[f"init/{n}"]) for n in names}
    optimizer, _ = optim.make_optimizer(
        config.optimizer, config.schedule, params, 1, params | {"logit_scale": 0.0}
    )
    state = optimizer.init(params)
    for t in range(12):
        grads = {our_name(n): jnp.asarray(golden[f"step{t}/grad/{n}"]) for n in names}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for n in names:
            want = golden[f"step{t}/param/{n}"]
            np.testing.assert_allclose(params[our_name(n)], want, rtol=0, atol=5e-6, err_msg=n)


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
