"""Bi-IRRA's gradients and a training run of twelve steps against golden values."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from configs.bi_irra import get_config
from parity.bi_irra.model import DERIVED, KEY_BIAS, LOSSES, Loaded, load
from parity.report import Report, absolute, of_largest, relative
from tipr_jax import optim
from tipr_jax.models.bi_irra import objective as training
from tipr_jax.param_tree import flatten, unflatten
from tipr_jax.pretrained import bi_irra
from tipr_jax.train_step import total_loss


def check_gradients(report: Report) -> None:
    loaded, full = load(report), report.arrays("grads.npz")
    golden = report.json("losses_and_grad_norms.json")
    if loaded is None or golden is None:
        return
    gradients = gradient_function(loaded)
    total = bi_irra.to_torch(gradients(loaded.params, jnp.ones(len(LOSSES))))
    limit = relative(1e-4), "rel 1e-4"
    report.compare("gradient norms: total", *norms(total, golden["grad_norm_total_loss"]), *limit)
    for i, name in enumerate(LOSSES):
        one = bi_irra.to_torch(gradients(loaded.params, jnp.eye(len(LOSSES))[i]))
        stored = golden["grad_norm_per_loss"][f"loss_{name}"]
        report.compare(f"gradient norms: {name}", *norms(one, stored), *limit)
    if full is not None:
        ours = {key: total.get(key) for key in full if not key.endswith(KEY_BIAS)}
        report.compare(
            "gradients", ours, {k: full[k] for k in ours}, of_largest(1e-4), "1e-4 * max |golden|"
        )


def gradient_function(loaded: Loaded) -> Callable[[dict, jax.Array], dict]:
    """(parameters, weight of each loss) -> gradients."""
    graphdef = loaded.graphdef()

    def weighted(params: dict, weights: jax.Array) -> jax.Array:
        terms = training.objective(nnx.merge(graphdef, params), loaded.inputs, loaded.config)
        return sum(w * terms[name] for w, name in zip(weights, LOSSES.values(), strict=True))

    return jax.jit(jax.grad(weighted))


def norms(gradient: dict, stored: dict[str, float]) -> tuple[dict, dict]:
    """(ours, golden) norms by official name; what golden does not list must be zero."""
    ours = {key: norm(value) for key, value in gradient.items()}
    total = float(np.linalg.norm(list(ours.values())))
    if "__total__" in stored:
        ours["__total__"] = total
    listed = {k: v for k, v in stored.items() if v is not None and not k.endswith(KEY_BIAS)}
    zero = {k: 0.0 for k, v in ours.items() if k not in stored and not k.endswith(KEY_BIAS)}
    return {k: ours[k] for k in listed | zero if k in ours}, listed | zero


def norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def check_trajectory(report: Report) -> None:
    loaded, golden = load(report), report.json("trajectory.json")
    if loaded is None or golden is None:
        return
    optimizer_cfg, schedule, per_epoch = training_config(golden["schedule"])
    optimizer, table = optim.make_optimizer(
        optimizer_cfg, schedule, loaded.params, steps_per_epoch=per_epoch
    )
    graphdef, params = loaded.graphdef(), loaded.params

    @jax.jit
    def step(params: dict, state: Any) -> tuple:
        def total(params: dict) -> tuple[jax.Array, dict]:
            terms = training.objective(nnx.merge(graphdef, params), loaded.inputs, loaded.config)
            return total_loss(terms), terms

        (value, terms), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, terms | {"total": value}

    state, history = optimizer.init(params), []
    for _ in golden["steps"]:
        params, state, terms = step(params, state)
        history.append(jax.device_get(terms))
    names = {f"loss_{k}": name for k, name in LOSSES.items()} | {"total": "total"}
    for name, ours in names.items():
        pair = {name: [h[ours] for h in history]}, {name: [s[name] for s in golden["steps"]]}
        report.compare(f"trajectory: {name}", *pair, relative(2e-4), "rel 2e-4")
    rates = {"lr": table[:, 0]}, {"lr": [s["lr"] for s in golden["steps"]]}
    report.compare("trajectory: lr", *rates, absolute(1e-12), "abs 1e-12")
    compare_parameters(report, golden, loaded.params, params, optimizer_cfg)


def training_config(hyper: dict) -> tuple[SimpleNamespace, SimpleNamespace, int]:
    """Official argument names -> our optimizer and schedule configs; the group table is ours."""
    cfg = get_config()
    optimizer = cfg.optimizer.to_dict() | {
        "learning_rate": hyper["lr"],
        "weight_decay": hyper["weight_decay"],
        "b1": hyper["betas"][0],
        "b2": hyper["betas"][1],
        "eps": hyper["eps"],
    }
    schedule = cfg.schedule.to_dict() | {
        "num_epochs": hyper["epoch"],
        "warmup_epochs": hyper["epoch_warmup"],
        "start_lr": hyper["lr_start"],
        "target_lr": hyper["lr_end"],
    }
    return SimpleNamespace(**optimizer), SimpleNamespace(**schedule), hyper["niter_per_ep"]


def compare_parameters(report: Report, golden: dict, before: dict, after: dict, cfg) -> None:
    first, last = bi_irra.to_torch(before), bi_irra.to_torch(after)
    for quantity, ours, limit in (
        ("final_norm", {k: norm(x) for k, x in last.items()}, 1e-5),
        ("delta_norm", {k: norm(np.float64(x) - first[k]) for k, x in last.items()}, 1e-3),
    ):
        stored = golden[quantity]
        keys = [k for k in ours | stored if not k.endswith((KEY_BIAS, *DERIVED))]
        keys = [k for k in keys if not k.startswith("classifier.")]
        one = {k: ours[k] for k in keys if k in ours}, {k: stored[k] for k in keys if k in stored}
        report.compare(f"trajectory: {quantity}", *one, relative(limit), f"rel {limit:g}")
    decay = flatten(optim.parameter_groups(before, tuple(cfg.groups)).decay)
    flat = flatten(before)
    as_decay = {
        k: np.full(np.shape(flat[k]), np.float32(cfg.weight_decay * d)) for k, d in decay.items()
    }
    ours = bi_irra.to_torch(unflatten(as_decay))
    stored = {k: v for k, v in golden["weight_decay"].items() if not k.startswith("classifier.")}
    pairs = {k: (np.unique(ours[k]), np.float32([v])) for k, v in stored.items() if k in ours}
    missing = {k: (None, v) for k, v in stored.items() if k not in ours and not k.endswith(DERIVED)}
    unknown = {k: (np.unique(v), None) for k, v in ours.items() if k not in stored}
    report.exact("trajectory: weight_decay", pairs | missing | unknown)
