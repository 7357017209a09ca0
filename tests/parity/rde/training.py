"""RDE's gradients, trajectories and whole epochs with their division against golden arrays."""

import dataclasses
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from configs.rde import get_config, groups
from parity.irra.training import norm
from parity.rde.division import compare_mixtures
from parity.rde.model import LOSSES, Loaded, define, load, official_statistics, read_inputs
from parity.report import Arrays, Report, absolute, of_largest, relative
from tipr_jax import optim
from tipr_jax.models.rde.config import Config
from tipr_jax.models.rde.division import ROUNDS, consensus, divide_one
from tipr_jax.models.rde.objective import objective, score
from tipr_jax.param_tree import flatten
from tipr_jax.pretrained import rde
from tipr_jax.pretrained.key_table import torch_keys
from tipr_jax.train_state import join, split, statistics_of, trained
from tipr_jax.train_step import total_loss

BRANCHES = ("bge", "tse")


def along_a_run(golden: np.ndarray) -> np.ndarray:
    """The limit for losses after some steps of training."""
    return 2e-5 + 2e-4 * np.abs(golden)


CURVE = along_a_run, "2e-5 + 2e-4 * |golden|"


def params_of(config: Config, weights: dict) -> tuple[dict, dict]:
    """(trained parameters, running statistics)."""
    # As arrays of JAX: a batch norm would write its statistics into those of numpy.
    return split(jax.tree.map(jnp.asarray, weights), trained(define(config)[1]))


def official(params: dict, statistics: dict) -> dict[str, np.ndarray]:
    """Parameters, or gradients, under official names and layouts, without what is not trained."""
    named = rde.to_torch(join(params, statistics))
    return {k: v for k, v in named.items() if k not in rde.UNUSED and "running_" not in k}


def check_gradients(report: Report, name: str) -> None:
    loaded = load(report, name)
    golden, forward = report.arrays(f"grads_{name}.npz"), report.arrays(f"forward_{name}.npz")
    if loaded is None or golden is None or forward is None:
        return
    inputs = read_inputs(forward.under("in/"))
    left_out = {key: 0.0 for key in map(str, golden["no_gradient"])}
    report.exact(
        f"grads_{name}: parameters that nothing reads",
        {key: (key in rde.UNUSED, True) for key in left_out},
    )
    noise = {str(key) for key in golden["train_bn/rounding_noise"]}
    for prefix, changes, skip in (
        ("", {}, set()),
        ("train_bn/", {"batch_norm": "batch"}, noise),
        *((f"{key}/", {"losses": (LOSSES[key],)}, set()) for key in ("TRL", "InfoNCE", "SDM")),
    ):
        config = dataclasses.replace(loaded.config, **changes)
        gradient = gradients(loaded, config, inputs)
        norms = left_out | {key: norm(value) for key, value in gradient.items()}
        stored = {k: v for k, v in golden.under(f"{prefix}norm/").items() if k not in skip}
        ours = {key: norms[key] for key in stored}
        title = f"grads_{name}: {prefix}"
        report.compare(f"{title}norm/*", ours, stored, relative(1e-4), "rel 1e-4")
        total = {"global_norm": np.linalg.norm(list(norms.values()))}
        wanted = {"global_norm": golden[f"{prefix}global_norm"]}
        report.compare(f"{title}global_norm", total, wanted, relative(1e-4), "rel 1e-4")
        full = {k: v for k, v in golden.under(f"{prefix}full/").items()
                if k not in skip | left_out.keys()}  # fmt: skip
        if full:
            ours = {key: gradient[key] for key in full}
            report.compare(f"{title}full/*", ours, full, of_largest(1e-4), "1e-4 * max |golden|")


def gradients(loaded: Loaded, config: Config, inputs: dict) -> dict[str, np.ndarray]:
    """d(sum of both losses) / d(parameter), official names and layouts."""
    params, statistics = params_of(config, loaded.weights)

    @jax.jit
    @jax.grad
    def gradient(params: dict) -> jax.Array:
        return total_loss(objective(merge(loaded, params, statistics), inputs, config))

    return official(jax.device_get(gradient(params)), statistics)


def merge(loaded: Loaded, params: Any, statistics: Any) -> Any:
    return nnx.merge(loaded.graphdef, join(params, statistics))


class Trainer(NamedTuple):
    """A training step with our optimiser, its rates, and the settings of every parameter."""

    step: Callable[..., tuple]
    start: tuple  # parameters, statistics, state of the optimiser
    table: np.ndarray  # learning rates [rows, groups]
    settings: dict[str, tuple[int, bool]]  # official name -> (column of the table, decays)
    weight_decay: float


def trainer(loaded: Loaded, config: Config, hyper: dict, steps_per_row: int) -> Trainer:
    """hyper: official argument names. Only the group table is ours, whose multiplier for the token
    selection gives the absolute rate of the release.
    """
    own = get_config()
    optimizer_cfg = SimpleNamespace(
        **own.optimizer.to_dict()
        | {"learning_rate": hyper["lr"], "weight_decay": hyper["weight_decay"]}
        | {"eps": hyper["eps"], "groups": groups(hyper["tse_lr"] / hyper["lr"])}
    )
    same = {k: hyper[k] for k in ("warmup_epochs", "warmup_factor")}
    schedule = SimpleNamespace(**own.schedule.to_dict() | same | {"num_epochs": hyper["num_epoch"]})
    params, statistics = params_of(config, loaded.weights)
    optimizer, table = optim.make_optimizer(optimizer_cfg, schedule, params, steps_per_row)

    @jax.jit
    def step(state: tuple, inputs: dict) -> tuple[tuple, dict]:
        params, statistics, opt_state = state

        def total(params: Any) -> tuple[jax.Array, tuple]:
            model = merge(loaded, params, statistics)
            terms = objective(model, inputs, config)
            return total_loss(terms), (terms, statistics_of(model))

        (value, (terms, new)), grads = jax.value_and_grad(total, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        state = optax.apply_updates(params, updates), new, opt_state
        return state, terms | {"total_loss": value}

    found = optim.parameter_groups(params, tuple(optimizer_cfg.groups))
    index, decay = flatten(found.index), flatten(found.decay)
    keys = torch_keys(join(params, statistics), rde.TABLE)
    settings = {
        k: (index[row.path], decay[row.path]) for k, (row, _) in keys.items() if row.path in index
    }
    start = params, statistics, optimizer.init(params)
    return Trainer(step, start, table, settings, hyper["weight_decay"])


def of_some_models(report: Report, kind: str, name: str) -> Arrays | None:
    """A file that the layout has for some models only; absent if there is none of the kind."""
    path = f"{kind}_{name}.npz"
    others = any(report.directory.glob(f"{kind}_*.npz"))
    return None if others and not (report.directory / path).is_file() else report.arrays(path)


def check_trajectory(report: Report, name: str) -> None:
    loaded, golden = load(report, name), of_some_models(report, "trajectory", name)
    if loaded is None or golden is None:
        return
    names = sorted({key.split("/")[0] for key in golden if key.startswith("batch") and "/" in key})
    batches = {key: read_inputs(golden.under(f"{key}/")) for key in names}
    order = [batches[f"batch{j}"] for j in golden["batch_order"]]
    for variant in sorted({key.split("/")[0] for key in golden if key.endswith("/hyper_json")}):
        hyper = json.loads(str(golden[f"{variant}/hyper_json"]))
        mode = "batch" if hyper["batch_norm"] == "batch statistics" else "frozen"
        config = dataclasses.replace(
            loaded.config,
            batch_norm=mode,
            tau=hyper["tau"],
            margin=hyper["margin"],
        )
        stepped = hyper["scheduler_step"] == "every step"
        run = trainer(loaded, config, hyper, 1 if stepped else len(order))
        state, history = run.start, []
        for inputs in order:
            state, terms = run.step(state, inputs)
            history.append(jax.device_get(terms))
        rows = [t if stepped else 0 for t in range(len(order))]
        compare_settings(report, f"trajectory_{name}: {variant}", golden, variant, run, rows)
        compare_run(report, f"trajectory_{name}: {variant}", golden, variant, run, state, history)


def stored_per_parameter(golden: Arrays, key: str) -> dict[str, np.ndarray]:
    """A golden array whose last axis runs over parameters -> {parameter: values}."""
    names = [str(name) for name in golden["param_names"]]
    return dict(zip(names, np.moveaxis(golden[key], -1, 0), strict=True))


def trained_alone(values: dict[str, Any]) -> dict[str, Any]:
    """Without the parameters that nothing reads, which our model does not have."""
    return {key: value for key, value in values.items() if key not in rde.UNUSED}


def compare_settings(
    report: Report, title: str, golden: Arrays, variant: str, run: Trainer, rows: list[int]
) -> None:
    """Learning rates and weight decay of every parameter, in every step."""
    rates = {k: np.array([run.table[row][i] for row in rows]) for k, (i, _) in run.settings.items()}
    decay = {key: decays * run.weight_decay for key, (_, decays) in run.settings.items()}
    for quantity, ours in (("lr", rates), ("weight_decay", decay)):
        stored = trained_alone(stored_per_parameter(golden, f"{variant}/{quantity}"))
        report.compare(f"{title} {quantity}", ours, stored, relative(1e-9), "rel 1e-9")


def compare_run(
    report: Report,
    title: str,
    golden: Arrays,
    variant: str,
    run: Trainer,
    state: tuple,
    history: list[dict],
) -> None:
    """Losses of every step, and what the parameters and statistics have become."""
    params, statistics, _ = jax.device_get(state)
    initial, final = official(*run.start[:2]), official(params, statistics)
    curves = [key for key in ("total_loss", "bge_loss", "tse_loss") if f"{variant}/{key}" in golden]
    ours = {key: np.array([terms[key] for terms in history]) for key in curves}
    stored = {key: golden[f"{variant}/{key}"] for key in curves}
    report.compare(f"{title} losses", ours, stored, *CURVE)

    noise_key = f"{variant}/rounding_noise"
    noise = {str(key) for key in golden[noise_key]} if noise_key in golden else set()
    moved = {key: norm(np.float64(final[key]) - np.float64(initial[key])) for key in final}
    moved |= {key: 0.0 for key in rde.UNUSED if "running" not in key and "tracked" not in key}
    delta = 2e-2 if variant == "default" else 1e-3  # tiny updates drown in rounding
    stored = stored_per_parameter(golden, f"{variant}/delta_norm")
    stored = {key: value for key, value in stored.items() if key not in noise}
    ours = {key: moved[key] for key in stored}
    report.compare(f"{title} delta_norm", ours, stored, relative(delta), f"rel {delta:g}")

    norms = {key: norm(value) for key, value in final.items()}
    stored = trained_alone(stored_per_parameter(golden, f"{variant}/final_norm"))
    report.compare(f"{title} final_norm", norms, stored, relative(1e-5), "rel 1e-5")
    final |= official_statistics(statistics)
    for part in ("final", "final_buffer"):
        if stored := trained_alone(golden.under(f"{variant}/{part}/")):
            ours = {key: final[key] for key in stored if key in final}
            report.compare(f"{title} {part}", ours, stored, absolute(5e-6), "abs 5e-6")


def check_epochs(report: Report, name: str) -> None:
    """The whole loop: pass over all pairs, division, training, with a partial last batch."""
    loaded, golden = load(report, name), of_some_models(report, "epochs", name)
    if loaded is None or golden is None:
        return
    for variant in sorted({key.split("/")[0] for key in golden if key.endswith("/hyper_json")}):
        run_epochs(report, f"epochs_{name}: {variant}", golden, variant, loaded)


def run_epochs(report: Report, title: str, golden: Arrays, variant: str, loaded: Loaded) -> None:
    hyper = json.loads(str(golden[f"{variant}/hyper_json"]))
    batch_norm = "batch" if np.any(golden[f"{variant}/training"]) else "frozen"
    config = dataclasses.replace(
        loaded.config,
        batch_norm=batch_norm,
        tau=hyper["tau"],
        margin=hyper["margin"],
        division="tight" if hyper["noisy_rate"] > 0.4 else "loose",
    )
    count, size = len(golden["pids"]), int(golden["batch_size"])
    run = trainer(loaded, config, hyper, -(-count // size))
    state, history, labels = run.start, [], np.ones(count, np.float32)
    for epoch in range(hyper["num_epoch"]):
        pass_order, train_order = golden["orders"][2 * epoch : 2 * epoch + 2]
        key = f"{variant}/epoch{epoch + 1}"
        losses = pair_pass(loaded, config, state, golden, pass_order, labels)
        stored = {branch: golden[f"{key}/loss_{branch}"] for branch in BRANCHES}
        report.compare(f"{title} {epoch + 1} losses of pairs", losses, stored, *CURVE)
        compare_mixtures(report, f"{title} {epoch + 1}", stored, golden.under(f"{key}/"), config)
        labels = divided(losses, golden[f"{key}/coins"], config)
        pairs = {"label_hat": (labels, golden[f"{key}/label_hat"])}
        report.exact(f"{title} {epoch + 1} division", pairs)
        stored_rates = trained_alone(stored_per_parameter(golden, f"{key}/lr"))
        rates = {k: run.table[epoch][i] for k, (i, _) in run.settings.items()}
        report.compare(f"{title} {epoch + 1} lr", rates, stored_rates, relative(1e-9), "rel 1e-9")
        for inputs, _ in batches(golden, train_order, labels):
            state, terms = run.step(state, inputs)
            history.append(jax.device_get(terms))
    compare_run(report, title, golden, variant, run, state, history)


def batches(golden: Arrays, order: np.ndarray, labels: np.ndarray):
    """(padded batch, its rows) of the pairs in `order`; padding rows hold zeros and the id -1."""
    size = int(golden["batch_size"])
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        padding = size - len(rows)
        fields = {key: golden[key][rows] for key in ("images", "caption_ids", "pids")}
        fields["label_hat"] = labels[rows]
        for key, values in fields.items():
            fill = np.full((padding, *values.shape[1:]), -1 if key == "pids" else 0, values.dtype)
            fields[key] = np.concatenate([values, fill])
        yield read_inputs(fields) | {"valid": np.arange(size) < len(rows)}, rows


def pair_pass(
    loaded: Loaded, config: Config, state: tuple, golden: Arrays, order: np.ndarray, labels
) -> dict[str, np.ndarray]:
    """The losses of all pairs, in their own order."""
    losses = {name: np.zeros(len(order), np.float32) for name in BRANCHES}
    evaluate = jax.jit(lambda p, s, x: score(merge(loaded, p, s), x, config))
    for inputs, rows in batches(golden, order, labels):
        for name, values in evaluate(*state[:2], inputs).items():
            losses[name][rows] = values[: len(rows)]
    return losses


def divided(losses: dict[str, np.ndarray], coins: np.ndarray, config: Config) -> np.ndarray:
    """The division with the coins of the release, one for each uncertain pair in order."""
    bge, tse = (divide_one(losses[name], ROUNDS[config.division])[1] for name in BRANCHES)
    every = np.zeros(len(bge), int)
    uncertain = bge != tse
    every[uncertain] = coins[: uncertain.sum()]
    return consensus(bge, tse, every).astype(np.float32)
