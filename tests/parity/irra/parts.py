"""Pure functions of IRRA against golden arrays: losses, optimiser, schedules, position resize."""

import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.irra import get_config
from parity.irra.model import define
from parity.irra.training import settings_by_key
from parity.report import Report, absolute, loss, of_largest, relative
from tipr_jax import optim
from tipr_jax.losses.classification import identity_loss
from tipr_jax.losses.contrastive import cmpm_loss, itc_loss, sdm_loss
from tipr_jax.losses.masked_words import masked_word_loss, of_tokens
from tipr_jax.models.irra import Config
from tipr_jax.nn.pos_embed import resize_pos_embed
from tipr_jax.param_tree import flatten
from tipr_jax.pretrained import irra
from tipr_jax.pretrained.key_table import torch_keys

INPUTS = ("image_feats", "text_feats", "pids", "image_ids", "logit_scale", "id_labels")
INPUTS += ("image_logits", "text_logits", "mlm_scores", "mlm_labels")


def loss_functions(case: dict[str, jax.Array]) -> dict[str, tuple[Callable, tuple]]:
    """{golden name: (function of the differentiated inputs, those inputs)} of one loss case."""
    features = case["image_feats"], case["text_feats"]
    ids, images, scale = case["pids"], case["image_ids"], case["logit_scale"]

    def sdm(**options) -> tuple[Callable, tuple]:
        return lambda a, b: sdm_loss(a, b, ids, logit_scale=scale, **options), features

    return {
        "sdm": sdm(),
        "sdm_imgid": sdm(image_id=images),
        "sdm_imgid_f0.5_eps1e-6": sdm(image_id=images, factor=0.5, epsilon=1e-6),
        "itc": (lambda a, b: itc_loss(a, b, logit_scale=scale), features),
        "cmpm": (lambda a, b: cmpm_loss(a, b, ids), features),
        "id": (
            lambda a, b: identity_loss(a, b, case["id_labels"])[0],
            (case["image_logits"], case["text_logits"]),
        ),
        "mlm": (lambda a: _masked_words(a, case["mlm_labels"]), (case["mlm_scores"],)),
    }


def _masked_words(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of given scores: as tokens, with the identity as vocabulary."""
    words = scores.shape[-1]
    tokens, labels = scores.reshape(1, -1, words), labels.reshape(1, -1)
    eye, total = jnp.eye(words), jnp.sum(labels != 0)
    return masked_word_loss(of_tokens, tokens, eye, jnp.zeros(words), labels, total, at_a_time=16)[
        0
    ]


@jax.jit
def values_and_gradients(case: dict[str, jax.Array]) -> tuple[dict, dict]:
    """Every loss of a case, and its gradients as the golden file names them."""
    values, gradients = {}, {}
    for name, (function, inputs) in loss_functions(case).items():
        value, grads = jax.value_and_grad(function, tuple(range(len(inputs))))(*inputs)
        values[name] = value
        gradients |= dict(zip((f"{name}_grad_a", f"{name}_grad_b"), grads, strict=False))
    return values, gradients


def check_losses(report: Report) -> None:
    golden = report.arrays("losses.npz")
    if golden is None:
        return
    for case in map(str, golden["cases"]):
        stored = golden.under(f"{case}/")
        inputs = {key: jnp.asarray(stored[key]) for key in INPUTS}
        values, gradients = values_and_gradients(inputs)
        pick = {key: stored[key] for key in values}
        report.compare(f"losses {case}", values, pick, loss(1e-5), "1e-5 * max(1, |golden|)")
        report.compare(
            f"losses {case} gradients",
            gradients,
            {key: stored[key] for key in gradients},
            of_largest(2e-4, 2e-7),
            "2e-4 * max + 2e-7",
        )


def schedule_config(**changes) -> SimpleNamespace:
    """The published schedule with `changes`."""
    return SimpleNamespace(**(get_config().schedule.to_dict() | changes))


def check_adam(report: Report) -> None:
    """The optimiser on the toy module, whose names pass through our group table."""
    golden = report.arrays("adam_unit.npz")
    if golden is None:
        return
    hyper, names = json.loads(str(golden["hyper"])), [str(name) for name in golden["names"]]
    cfg = SimpleNamespace(
        **get_config().optimizer.to_dict()
        | {"learning_rate": hyper["lr"], "weight_decay": hyper["weight_decay"]}
        | {"b1": hyper["betas"][0], "b2": hyper["betas"][1], "eps": hyper["eps"]}
    )
    schedule = schedule_config(num_epochs=hyper["num_epoch"], warmup_epochs=hyper["warmup_epochs"])
    read = lambda prefix: {our_name(k): jnp.asarray(golden[prefix + k]) for k in names}  # noqa: E731
    params = read("init/")
    complete = params | {"logit_scale": 0.0}  # only the table has it
    optimizer, table = optim.make_optimizer(cfg, schedule, params, 1, complete)
    groups = optim.parameter_groups(params, tuple(cfg.groups), complete)
    state, steps = optimizer.init(params), sum(key.endswith("/lr") for key in golden)

    @jax.jit
    def step(params: dict, state: Any, grads: dict) -> tuple:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    ours, stored, rates, stored_rates = {}, {}, {}, {}
    for t in range(steps):
        params, state = step(params, state, read(f"step{t}/grad/"))
        ours |= {f"step{t} {name}": params[our_name(name)] for name in names}
        stored |= {f"step{t} {name}": golden[f"step{t}/param/{name}"] for name in names}
        rates[f"step{t}"] = np.array([table[t][groups.index[our_name(name)]] for name in names])
        stored_rates[f"step{t}"] = golden[f"step{t}/lr"]
    report.compare("adam_unit parameters", ours, stored, absolute(5e-6), "abs 5e-6")
    report.compare("adam_unit lr", rates, stored_rates, relative(1e-9), "rel 1e-9")
    decay = np.array([groups.decay[our_name(name)] * cfg.weight_decay for name in names])
    both = {"weight_decay": decay}, {"weight_decay": golden["weight_decay"]}
    report.compare("adam_unit weight_decay", *both, relative(1e-9), "rel 1e-9")


def our_name(name: str) -> str:
    """An official parameter name as our paths would spell it."""
    path = name.replace(".", "/")
    return f"fusion/{path}" if path.startswith("cross") else path


def check_schedules(report: Report) -> None:
    golden = report.arrays("lr_schedule.npz")
    for case in golden or ():
        mode, epochs, target, constant = re.fullmatch(
            r"(?:default_)?([a-z]+)(\d+)(?:_target([\d.e-]+))?(_constwarm)?", case
        ).groups()
        cfg = schedule_config(
            name=mode,
            num_epochs=int(epochs),
            target_lr=float(target or 0),
            warmup_method="constant" if constant else "linear",
        )
        compare_schedule(report, f"lr_schedule {case}", cfg, golden[case], (1, 2, 5))
    path = report.directory / "lr_schedule_default.csv"
    if path.is_file():
        rows = np.loadtxt(path, delimiter=",", skiprows=1)
        # The file has 13 digits.
        compare_schedule(
            report, "lr_schedule_default.csv", schedule_config(), rows[:, 1:], (1, 2, 5)
        )
    else:
        report.absent.append(path.name)


def compare_schedule(report: Report, title: str, cfg, golden: np.ndarray, multipliers) -> None:
    """The table that training reads; golden has one row more, which training never reaches."""
    base = get_config().optimizer.learning_rate
    table = optim.learning_rate_table(cfg, base, multipliers)[: len(golden)]
    beyond = [
        [optim.learning_rate(cfg, epoch, base * m) for m in multipliers]
        for epoch in range(len(table), len(golden))
    ]
    ours = np.concatenate([table, np.reshape(beyond, (-1, len(multipliers)))])
    report.compare(title, {"lr": ours}, {"lr": golden}, relative(1e-9), "rel 1e-9")


def check_parameter_groups(report: Report) -> None:
    """Names, shapes, rates and decay of the full published model, without allocating it."""
    golden = report.json("vitb16_params.json")
    if golden is None:
        return
    init = define(Config.vit_b16())[2]
    params = jax.eval_shape(init, jax.random.key(0))
    cfg = get_config().optimizer
    groups = optim.parameter_groups(params, tuple(cfg.groups), params | {"logit_scale": 0.0})
    settings = settings_by_key(params, cfg)
    shapes = torch_shapes(params, irra.TABLE)
    multipliers, decay = groups.multipliers, cfg.weight_decay
    for quantity, ours, field in (
        ("shape", shapes, lambda row: tuple(row["shape"])),
        ("lr multiplier", {k: multipliers[i] for k, (i, _) in settings.items()}, _get("lr_mult")),
        ("weight decay", {k: d * decay for k, (_, d) in settings.items()}, _get("weight_decay")),
    ):
        stored = {row["key"]: field(row) for row in golden}
        pairs = {key: (ours.get(key), stored.get(key)) for key in ours | stored}
        report.exact(f"vitb16_params: name and {quantity}", pairs)


def torch_shapes(params, key_table) -> dict[str, tuple[int, ...]]:
    """Official name -> shape there, of abstract parameters."""
    flat, shapes = flatten(params), {}
    for key, (row, layer) in torch_keys(params, key_table).items():
        shape = flat[row.path].shape
        one = np.broadcast_to(np.int8(0), shape if layer is None else shape[1:])
        shapes[key] = row.transform.to_torch(one).shape
    return shapes


def _get(name: str) -> Callable[[dict], float]:
    return lambda row: row[name]


def check_pos_embed(report: Report) -> None:
    golden = report.arrays("pos_embed.npz")
    for case in sorted({key.split("/")[0] for key in golden or ()}):
        rows, cols = map(int, golden[f"{case}/hw"])
        ours = {"new": resize_pos_embed(jnp.asarray(golden[f"{case}/old"]), (rows, cols))}
        stored = {"new": golden[f"{case}/new"]}
        report.compare(f"pos_embed {case}", ours, stored, absolute(2e-5), "abs 2e-5")
