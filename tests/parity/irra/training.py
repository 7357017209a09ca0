"""IRRA's gradients and training trajectories against golden arrays."""

import dataclasses
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from configs.irra import get_config
from parity.irra.model import ALL_LOSSES, TERMS, Loaded, load, read_inputs
from parity.report import EXACT, Arrays, Report, absolute, of_largest, relative
from tipr_jax import optim
from tipr_jax.models.irra import objective
from tipr_jax.param_tree import flatten
from tipr_jax.pretrained import irra
from tipr_jax.pretrained.key_table import torch_keys
from tipr_jax.train_step import total_loss


def check_gradients(report: Report, name: str) -> None:
    loaded = load(report, name)
    golden, forward = report.arrays(f"grads_{name}.npz"), report.arrays(f"forward_{name}.npz")
    if loaded is None or golden is None or forward is None:
        return
    gradients = gradient_function(loaded, read_inputs(forward, "in/"))
    for losses, prefix in ((loaded.config.losses, ""), (ALL_LOSSES, "all5/")):
        gradient = gradients(losses)
        norms = {key: norm(value) for key, value in gradient.items()}
        report.compare(
            f"grads_{name}: {prefix}norm/*",
            norms,
            golden.under(f"{prefix}norm/"),
            relative(1e-4),
            "rel 1e-4",
        )
        total = {"global_norm": np.linalg.norm(list(norms.values()))}
        stored = {"global_norm": golden[f"{prefix}global_norm"]}
        report.compare(
            f"grads_{name}: {prefix}global_norm", total, stored, relative(1e-4), "rel 1e-4"
        )
        if full := golden.under(f"{prefix}full/"):
            report.compare(
                f"grads_{name}: {prefix}full/*",
                {key: gradient[key] for key in full},
                full,
                of_largest(1e-4),
                "1e-4 * max |golden|",
            )


def gradient_function(loaded: Loaded, inputs: dict) -> Callable:
    """names of losses -> d(their sum) / d(parameter) under the official names and layouts."""
    config = dataclasses.replace(loaded.config, losses=ALL_LOSSES)

    @jax.jit
    @jax.grad
    def gradient(params: Any, weights: dict[str, float]) -> jax.Array:
        terms = objective(nnx.merge(loaded.graphdef, params), inputs, config)
        return sum(weight * terms[f"{name}_loss"] for name, weight in weights.items())

    def of_losses(losses: tuple[str, ...]) -> dict[str, np.ndarray]:
        weights = {name: float(name in losses) for name in ALL_LOSSES}
        return irra.to_torch(gradient(loaded.params, weights))

    return of_losses


def norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def check_trajectory(report: Report, name: str) -> None:
    path, loaded = f"trajectory_{name}.npz", load(report, name)
    if not list(report.directory.glob("trajectory_*.npz")):
        report.absent.append(path)
    if loaded is None or not (report.directory / path).is_file():
        return  # the layout has trajectories of some configs only
    golden = report.arrays(path)
    batches = sorted(
        {key.split("/")[0] for key in golden if key.startswith("batch") and "/" in key}
    )
    batches = {key: read_inputs(golden, f"{key}/") for key in batches}
    order = [batches[f"batch{j}"] for j in golden["batch_order"]]
    for variant in sorted({key.split("/")[0] for key in golden if key.endswith("/hyper_json")}):
        hyper = json.loads(str(golden[f"{variant}/hyper_json"]))
        ours = run_trajectory(loaded, order, hyper, variant == "sched")
        compare_trajectory(report, f"trajectory_{name}: {variant}", golden, variant, ours)


def run_trajectory(loaded: Loaded, order: list, hyper: dict, scheduled: bool) -> dict[str, Any]:
    """Trains on the batches of `order`; only `scheduled` runs step the learning-rate schedule."""
    _, config, graphdef, params, _ = loaded
    optimizer_cfg, schedule = optimizer_config(hyper)
    optimizer, table = optim.make_optimizer(
        optimizer_cfg, schedule, params, 1 if scheduled else len(order), with_scale(params)
    )

    @jax.jit
    def step(params, opt_state, inputs):
        def total(params):
            terms = objective(nnx.merge(graphdef, params), inputs, config)
            return total_loss(terms), terms

        (value, terms), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, terms | {"total_loss": value}

    initial, opt_state, history = irra.to_torch(params), optimizer.init(params), []
    for inputs in order:
        params, opt_state, terms = step(params, opt_state, inputs)
        history.append(jax.device_get(terms))
    final = irra.to_torch(params)
    groups = settings_by_key(params, optimizer_cfg)
    rows = [table[t if scheduled else 0] for t in range(len(order))]
    return {
        "terms": {key: np.array([h[key] for h in history]) for key in history[0]},
        "lr": {key: np.array([row[index] for row in rows]) for key, (index, _) in groups.items()},
        "weight_decay": {k: decay * optimizer_cfg.weight_decay for k, (_, decay) in groups.items()},
        "final": final,
        "final_norm": {key: norm(value) for key, value in final.items()},
        "delta_norm": {
            key: norm(np.float64(final[key]) - np.float64(initial[key])) for key in final
        },
    }


def optimizer_config(hyper: dict) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Official argument names -> our optimizer and schedule configs; the group table is ours."""
    optimizer = SimpleNamespace(
        name=hyper["optimizer"].lower(),
        learning_rate=hyper["lr"],
        weight_decay=hyper["weight_decay"],
        b1=hyper["alpha"],
        b2=hyper["beta"],
        eps=get_config().optimizer.eps,
        momentum=hyper["momentum"],
        groups=get_config().optimizer.groups,
    )
    schedule = SimpleNamespace(
        name=hyper["lrscheduler"],
        **{key: hyper[key] for key in ("warmup_epochs", "warmup_factor", "warmup_method")},
        **{key: hyper[key] for key in ("target_lr", "milestones", "gamma", "power")},
        num_epochs=hyper["num_epoch"],
    )
    return optimizer, schedule


def with_scale(params: dict) -> dict:
    """Our group table has a row for a learned temperature, which the released code has not."""
    return params | {"logit_scale": 0.0}


def settings_by_key(params: Any, optimizer_cfg: Any) -> dict[str, tuple[int, bool]]:
    """Official name -> (column of the learning-rate table, weight decay applies)."""
    groups = optim.parameter_groups(params, tuple(optimizer_cfg.groups), with_scale(params))
    index, decay = flatten(groups.index), flatten(groups.decay)
    keys = torch_keys(params, irra.TABLE)
    return {key: (index[row.path], decay[row.path]) for key, (row, _) in keys.items()}


def compare_trajectory(
    report: Report, title: str, golden: Arrays, variant: str, ours: dict
) -> None:
    names = [str(key) for key in golden["param_names"]]

    def stored(quantity: str) -> dict[str, np.ndarray]:
        """A golden array whose last axis runs over parameters -> {parameter: values}."""
        return dict(zip(names, np.moveaxis(golden[f"{variant}/{quantity}"], -1, 0), strict=True))

    history = golden.under(f"{variant}/")
    terms = {"total_loss": "total_loss"} | TERMS
    losses = [key for key in terms if key in history and key.endswith("_loss")]
    accuracies = [key for key in terms if key in history and key.endswith("_acc")]
    mine = {key: ours["terms"][terms[key]] for key in losses + accuracies}
    ours = ours | {"losses": mine, "accuracies": mine}
    delta = 2e-2 if variant == "default" else 1e-3  # tiny updates drown in rounding
    for quantity, values, limit, tolerance in (
        ("losses", {key: history[key] for key in losses}, relative(2e-4), "rel 2e-4"),
        ("accuracies", {key: history[key] for key in accuracies}, EXACT, "exact"),
        ("lr", stored("lr"), relative(1e-9), "rel 1e-9"),
        ("weight_decay", stored("weight_decay"), relative(1e-9), "rel 1e-9"),
        ("final_norm", stored("final_norm"), relative(1e-5), "rel 1e-5"),
        ("delta_norm", stored("delta_norm"), relative(delta), f"rel {delta:g}"),
        ("final", golden.under(f"{variant}/final/"), absolute(5e-6), "abs 5e-6"),
    ):
        pick = {key: ours[quantity][key] for key in values if key in ours[quantity]}
        report.compare(f"{title} {quantity}", pick, values, limit, tolerance)
