"""Optimisers, learning-rate schedules and the regex table of parameter groups (spec irra §5).

A parameter group is a row (pattern, lr_multiplier, decay): the first pattern found in the
parameter's path ("image_encoder/blocks/attn/qkv/bias") decides. lr_multiplier 0 freezes.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

SCHEDULES = ("cosine", "linear", "step", "exp", "poly", "constant")


class Groups(NamedTuple):
    """Per-parameter settings, as trees shaped like the parameters."""

    index: Any  # int: which row of `multipliers`
    multipliers: tuple[float, ...]
    decay: Any  # bool: weight decay applies


def path_name(path: tuple) -> str:
    return "/".join(str(getattr(k, "key", k)) for k in path)


def parameter_groups(params: Any, table: tuple, complete: Any = None) -> Groups:
    """Assigns every parameter to the first row of `table` whose pattern matches.

    `complete` is the tree of the same model with all optional heads: a pattern for a head that
    this run's losses do not need is no mistake.

    Raises:
      ValueError: if a pattern decides no parameter (a typo) or a parameter matches no pattern.
    """

    def row_of(path: tuple, _: Any) -> int:
        name = path_name(path)
        for i, (pattern, *_) in enumerate(table):
            if re.search(pattern, name):
                return i
        raise ValueError(
            f"parameter {name} matches no pattern of optimizer.groups; add ('.*', 1.0, True)"
        )

    rows = jax.tree.map_with_path(row_of, params)
    everything = params if complete is None else complete
    used = set(jax.tree.leaves(jax.tree.map_with_path(row_of, everything)))
    if idle := [table[i][0] for i in range(len(table)) if i not in used]:
        names = sorted(everything)
        raise ValueError(
            f"optimizer.groups patterns {idle} match no parameter that an earlier pattern left; "
            f"top-level parameters are {names}"
        )
    multipliers = tuple(sorted({float(row[1]) for row in table}))
    return Groups(
        index=jax.tree.map(lambda r: multipliers.index(float(table[r][1])), rows),
        multipliers=multipliers,
        decay=jax.tree.map(lambda r: bool(table[r][2]), rows),
    )


def learning_rate(cfg: Any, epoch: int, base: float) -> float:
    """Learning rate of 0-based `epoch` for a group whose base rate is `base` (spec irra §5.3).

    cfg: name, num_epochs, warmup_epochs, warmup_factor, warmup_method ("linear" | "constant"),
    target_lr (absolute, shared by all groups), milestones, gamma, power.
    """
    warmup = cfg.warmup_epochs
    if epoch < warmup:
        ramp = epoch / warmup if cfg.warmup_method == "linear" else 0.0
        return base * (cfg.warmup_factor + (1 - cfg.warmup_factor) * ramp)
    x = (epoch - warmup) / (cfg.num_epochs - warmup)
    match cfg.name:
        case "cosine":
            return cfg.target_lr + (base - cfg.target_lr) * 0.5 * (1 + np.cos(np.pi * x))
        case "linear":
            return base * (1 - x)
        case "exp":
            return base * cfg.power**x
        case "poly":  # rises with x: released quirk, kept
            return cfg.target_lr + (base - cfg.target_lr) * cfg.power ** (1 - x)
        case "step":
            return base * cfg.gamma ** sum(m <= epoch for m in cfg.milestones)
        case "constant":
            return base
    raise ValueError(f"schedule.name is {cfg.name!r}, expected one of {SCHEDULES}")


def learning_rate_table(cfg: Any, base: float, multipliers: tuple[float, ...]) -> np.ndarray:
    """float64 [num_epochs, groups]: constant within an epoch, as released.

    Epoch k uses the scheduler at k, so the cosine never reaches its target (released quirk).
    """
    if cfg.num_epochs <= cfg.warmup_epochs:
        raise ValueError(
            f"schedule.num_epochs {cfg.num_epochs} must exceed "
            f"schedule.warmup_epochs {cfg.warmup_epochs}"
        )
    rows = ([learning_rate(cfg, e, base * m) for m in multipliers] for e in range(cfg.num_epochs))
    return np.asarray(list(rows), np.float64)


class ScheduleState(NamedTuple):
    count: jax.Array


def scale_by_rate_table(
    table: np.ndarray, index: Any, steps_per_epoch: int
) -> optax.GradientTransformation:
    """update -> -table[step // steps_per_epoch, group] * update."""
    rates = jnp.asarray(table, jnp.float32)

    def update(updates, state, params=None):
        del params
        row = rates[jnp.minimum(state.count // steps_per_epoch, len(rates) - 1)]
        updates = jax.tree.map(lambda u, i: -row[i].astype(u.dtype) * u, updates, index)
        return updates, ScheduleState(state.count + 1)

    return optax.GradientTransformation(
        lambda params: ScheduleState(jnp.zeros([], jnp.int32)), update
    )


def make_optimizer(
    cfg: Any, schedule: Any, params: Any, steps_per_epoch: int, complete: Any = None
) -> tuple[optax.GradientTransformation, np.ndarray]:
    """The optimiser of `cfg` and its learning-rate table; `complete` as in `parameter_groups`.

    cfg: name ("adam" | "adamw" | "sgd"), learning_rate, weight_decay, b1, b2, eps, momentum,
      groups.

    Raises:
      ValueError: for an unknown name, or a group table that does not fit `params`.
    """
    groups = parameter_groups(params, tuple(cfg.groups), complete)
    table = learning_rate_table(schedule, cfg.learning_rate, groups.multipliers)
    decay = optax.add_decayed_weights(cfg.weight_decay, groups.decay)
    adam = optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.eps)
    steps = {
        "adam": (decay, adam),  # classic L2: the decay enters the moments, as released
        "adamw": (adam, decay),
        "sgd": (decay, optax.trace(decay=cfg.momentum)),
    }
    if cfg.name not in steps:
        raise ValueError(f"optimizer.name is {cfg.name!r}, expected one of {sorted(steps)}")
    rate = scale_by_rate_table(table, groups.index, steps_per_epoch)
    return optax.chain(*steps[cfg.name], rate), table
