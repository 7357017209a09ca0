"""Pure functions and the full size of RDE against golden arrays: losses, schedule, manifest."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs.rde import get_config
from parity.irra.parts import torch_shapes
from parity.rde.model import ALTERNATIVE, LOSSES, VALUE, cases_of, define, scores_of
from parity.report import Report, absolute, of_largest, relative
from tipr_jax import optim
from tipr_jax.models.rde import Config
from tipr_jax.models.rde.objective import pair_loss, reduce_pairs
from tipr_jax.param_tree import flatten
from tipr_jax.pretrained import rde
from tipr_jax.pretrained.key_table import torch_keys
from tipr_jax.train_state import count_parameters, split, trained


def check_losses(report: Report) -> None:
    golden = report.arrays("losses.npz")
    for case in cases_of(golden) if golden else ():
        stored = golden.under(f"{case}/")
        image, text = (jnp.asarray(stored[f"{key}_feats"]) for key in ("image", "text"))
        person_id, clean = jnp.asarray(stored["pids"], jnp.int32), jnp.asarray(stored["label_hat"])
        scores = scores_of(text, image)
        ours = {"scores": scores, "sims": jnp.diagonal(scores)}
        pick = {key: stored[key] for key in ours}
        report.compare(f"losses {case} scores", ours, pick, absolute(2e-5), "abs 2e-5")
        for golden_name, name in LOSSES.items():
            settings = {key: float(stored[key]) for key in ALTERNATIVE}
            config = dataclasses.replace(Config(), losses=(name,), **settings)
            of = golden.under(f"{case}/{golden_name}/")
            compare_loss(report, f"losses {case} {golden_name}", config, of, image, text, person_id,
                         clean)  # fmt: skip


def compare_loss(
    report: Report,
    title: str,
    config: Config,
    of: dict[str, Any],
    image: jax.Array,
    text: jax.Array,
    person_id: jax.Array,
    clean: jax.Array,
) -> None:
    """Losses and their gradients; where the gradient of the release is NaN, ours is 0."""
    valid = jnp.ones(len(image), bool)

    @jax.jit
    def loss(image: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        per_pair = pair_loss(image, text, person_id, valid, config)
        return reduce_pairs(per_pair, clean, config), per_pair

    (value, per_pair), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(image, text)
    ours = {"loss": value, "per_loss": per_pair}
    report.compare(title, ours, {key: of[key] for key in ours}, *VALUE)
    gradients = dict(zip(("grad_image", "grad_text"), grads, strict=True))
    if of["gradient_is_finite"]:
        stored = {key: of[key] for key in gradients}
    else:
        stored = {key: np.zeros(np.shape(x)) for key, x in gradients.items()}
    limit = of_largest(2e-4, 2e-7), "2e-4 * max + 2e-7"
    report.compare(f"{title} gradients", gradients, stored, *limit)


def check_schedules(report: Report) -> None:
    golden = report.arrays("lr_schedule.npz")
    if golden is not None:
        compare_schedule(report, "lr_schedule", golden["default_cosine60"])
    path = report.directory / "lr_schedule_default.csv"
    if path.is_file():  # it has 13 digits
        rows = np.loadtxt(path, delimiter=",", skiprows=1)[:, 1:]
        compare_schedule(report, "lr_schedule_default.csv", rows)
    else:
        report.absent.append(path.name)


def compare_schedule(report: Report, title: str, golden: np.ndarray) -> None:
    """Columns base, bias, token selection; a row behind the last epoch is never reached."""
    config = get_config()
    schedule, base = SimpleNamespace(**config.schedule.to_dict()), config.optimizer.learning_rate
    multipliers = [
        m for pattern, m, _ in reversed(config.optimizer.groups) if "_sel" not in pattern
    ]
    multipliers.append(config.optimizer.groups[0][1])
    rows = [
        [optim.learning_rate(schedule, epoch, base * m) for m in multipliers]
        for epoch in range(len(golden))
    ]
    report.compare(title, {"lr": np.array(rows)}, {"lr": golden}, relative(1e-9), "rel 1e-9")


def check_parameters(report: Report) -> None:
    """Names, shapes, rates, decay and float16 of the full model, without allocating it."""
    golden = report.json("vitb16_params.json")
    if golden is None:
        return
    _, abstract, init = define(Config())
    weights = jax.eval_shape(init, jax.random.key(0))
    params, _ = split(weights, trained(abstract))
    optimizer = get_config().optimizer
    groups = optim.parameter_groups(params, tuple(optimizer.groups))
    half = flatten(optim.named_like(params, optimizer.float16))
    index, decay = flatten(groups.index), flatten(groups.decay)
    rate = lambda path: optimizer.learning_rate * groups.multipliers[index[path]]  # noqa: E731
    names = {key: row.path for key, (row, _) in torch_keys(weights, rde.TABLE).items()}
    read = {row["key"]: row for row in golden if row["key"] not in rde.UNUSED}
    compare: list[tuple[str, Callable[[str], Any], Callable[[dict], Any]]] = [
        ("shape", torch_shapes(weights, rde.TABLE).__getitem__, lambda row: tuple(row["shape"])),
        ("kind", lambda k: names[k] in index, lambda row: row["kind"] == "parameter"),
        ("gradient", lambda k: True, lambda row: row.get("gradient", True)),
        ("float16", lambda k: half.get(names[k], False), lambda row: row["dtype"] == "float16"),
    ]
    for quantity, ours, stored in compare:
        pairs = {k: (ours(k), stored(row)) for k, row in read.items() if k in names}
        pairs |= {k: ("missing", "missing here or there") for k in names.keys() ^ read.keys()}
        report.exact(f"vitb16_params: name and {quantity}", pairs)
    moved = {k: row for k, row in read.items() if row["kind"] == "parameter"}
    for quantity, ours in (
        ("base_lr", {k: rate(names[k]) for k in moved}),
        ("weight_decay", {k: decay[names[k]] * optimizer.weight_decay for k in moved}),
    ):
        stored = {k: row[quantity] for k, row in moved.items()}
        report.compare(f"vitb16_params: {quantity}", ours, stored, relative(1e-9), "rel 1e-9")
    shapes = rde.unused(512, 1024)
    unread = {r["key"]: tuple(r["shape"]) for r in golden if r["key"] in rde.UNUSED}
    pairs = {key: (shapes[key].shape, unread.get(key)) for key in shapes}
    report.exact("vitb16_params: tensors that nothing reads", pairs)
    size = lambda rows: sum(int(np.prod(row["shape"])) for row in rows)  # noqa: E731
    total = {"values": (count_parameters(params), size(moved.values()))}
    report.exact("vitb16_params: number of trained values", total)


def check_counts(report: Report) -> None:
    golden = report.json("topk_counts.json")
    if golden is None:
        return
    pairs = {}
    for places, ratio, chosen in golden:
        config = Config(
            image_size=(16, 16 * places), text_length=places + 2, select_ratio=ratio
        )  # one row of patches
        pairs[f"{places} patches, {ratio}"] = (config.selected_patches, chosen)
        pairs[f"{places} words, {ratio}"] = (config.selected_words, chosen)
    report.exact("topk_counts", pairs)
