"""Optimisers, learning-rate schedules and the regex table of parameter groups.

Source: solver/build.py and solver/lr_scheduler.py in the release of IRRA; the other schedules name
their own source.

A parameter group is a row (pattern, lr_multiplier, decay): the first pattern found in the
parameter's path ("image_encoder/blocks/attn/qkv/bias") decides. lr_multiplier 0 freezes.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tipr_jax.param_tree import Params

SCHEDULES = ("cosine", "linear", "step", "exp", "poly", "constant", "cosine_unshifted")
COSINE_PER_STEP = "cosine_per_step"  # the only one that changes within an epoch


class Groups(NamedTuple):
    """Per-parameter settings, as trees shaped like the parameters."""

    index: Any  # int: which row of `multipliers`
    multipliers: tuple[float, ...]
    decay: Any  # bool: weight decay applies


def path_name(path: tuple) -> str:
    """ "image_encoder/blocks/attn/qkv/bias": how patterns see a parameter."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_groups(params: Params, table: tuple, complete: Params | None = None) -> Groups:
    """Assigns every parameter to the first row of `table` whose pattern matches.

    Args:
      params: nested dict of arrays or of their shapes.
      table: rows (pattern, lr_multiplier, decay).
      complete: the parameters of the same model with all optional heads; a pattern for a head that
        the losses of this run do not need is no mistake.

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


class ScheduleConfig(Protocol):
    """`config.schedule`; a schedule reads those fields that its docstring names."""

    name: str
    num_epochs: int
    first_epoch: int
    warmup_epochs: int
    warmup_factor: float
    warmup_method: str
    start_lr: float
    target_lr: float
    milestones: Sequence[int]
    gamma: float
    power: float


def epochs(cfg: ScheduleConfig) -> int:
    """How many epochs a run trains: `first_epoch` to `num_epochs`, both of them.

    A schedule without first_epoch counts from 1.
    """
    return cfg.num_epochs + 1 - _first_epoch(cfg)


def _first_epoch(cfg: ScheduleConfig) -> int:
    return getattr(cfg, "first_epoch", 1)


class OptimizerConfig(Protocol):
    """`config.optimizer`."""

    name: str
    learning_rate: float
    weight_decay: float
    b1: float
    b2: float
    eps: float
    momentum: float
    float16: str
    groups: Sequence[tuple[str, float, bool]]


def learning_rate(cfg: ScheduleConfig, epoch: int, base: float) -> float:
    """Learning rate of 0-based `epoch` for a group whose base rate is `base`.

    cfg: name, num_epochs, warmup_epochs, warmup_factor, warmup_method ("linear" | "constant"),
    target_lr (absolute, shared by all groups), milestones, gamma, power. "cosine_unshifted" has
    other fields, see `unshifted_cosine`.

    Raises:
      ValueError: an unknown name.
    """
    if cfg.name == "cosine_unshifted":
        return unshifted_cosine(cfg, epoch + _first_epoch(cfg), base)
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
    raise ValueError(
        f"schedule.name is {cfg.name!r}, expected one of {(*SCHEDULES, COSINE_PER_STEP)}"
    )


def unshifted_cosine(cfg: ScheduleConfig, epoch: int, base: float) -> float:
    """Rate of `epoch`, counted from `first_epoch`: linear warm-up, then a cosine that began at 0.

    cfg: num_epochs, warmup_epochs, and the absolute rates start_lr and target_lr, shared by all
    groups. The last epoch is at target_lr. Source: solver/lr_scheduler.py in the release of IVT.
    """
    if epoch < cfg.warmup_epochs:
        return cfg.start_lr + epoch * (base - cfg.start_lr) / cfg.warmup_epochs
    x = min(1.0, epoch / cfg.num_epochs)
    return cfg.target_lr + (base - cfg.target_lr) * 0.5 * (1 + np.cos(np.pi * x))


def step_rates(cfg: ScheduleConfig, base: float, steps_per_epoch: int) -> np.ndarray:
    """float64 [steps]: linear warm-up from `start_lr` to `base`, then a cosine to `target_lr`.

    Source: the schedule per step of the release of Bi-IRRA, which DINO has, too (`cosine_scheduler`
    of utils.py in its release).

    cfg: num_epochs, warmup_epochs, and the absolute rates start_lr and target_lr. The last step of
    the warm-up and the first of the cosine both use `base`; a warm-up of one step uses start_lr.
    """
    warmup, total = cfg.warmup_epochs * steps_per_epoch, cfg.num_epochs * steps_per_epoch
    ramp = np.arange(warmup) / max(1, warmup - 1)
    x = np.arange(total - warmup) / (total - warmup)
    cosine = cfg.target_lr + (base - cfg.target_lr) * 0.5 * (1 + np.cos(np.pi * x))
    return np.concatenate([cfg.start_lr + (base - cfg.start_lr) * ramp, cosine])


def learning_rate_table(
    cfg: ScheduleConfig, base: float, multipliers: tuple[float, ...], steps_per_epoch: int = 1
) -> np.ndarray:
    """Learning rates, float64 [num_epochs, groups]: constant within an epoch, as released.

    Epoch k uses the scheduler at k, so the cosine never reaches its target (released quirk).
    "cosine_per_step" has one row per step instead of one per epoch.

    Args:
      cfg: `config.schedule`.
      base: learning rate of a group with multiplier 1.
      multipliers: one per group.
      steps_per_epoch: for "cosine_per_step".

    Raises:
      ValueError: an unknown schedule, or no epoch after the warm-up.
    """
    if cfg.num_epochs <= cfg.warmup_epochs:
        raise ValueError(
            f"schedule.num_epochs {cfg.num_epochs} must exceed "
            f"schedule.warmup_epochs {cfg.warmup_epochs}"
        )
    if cfg.name == COSINE_PER_STEP:
        return np.stack([step_rates(cfg, base * m, steps_per_epoch) for m in multipliers], axis=1)
    rows = ([learning_rate(cfg, e, base * m) for m in multipliers] for e in range(epochs(cfg)))
    return np.asarray(list(rows), np.float64)


class ScheduleState(NamedTuple):
    """State of `scale_by_rate_table`: the number of updates so far, int32 []."""

    count: jax.Array


def scale_by_rate_table(
    table: np.ndarray, index: Any, steps_per_row: int
) -> optax.GradientTransformation:
    """update -> -table[step // steps_per_row, group] * update.

    table: [rows, groups]. index: tree of ints like the parameters, the group of each one.
    """
    rates = jnp.asarray(table, jnp.float32)

    def update(updates, state, params=None):
        del params
        row = rates[jnp.minimum(state.count // steps_per_row, len(rates) - 1)]
        updates = jax.tree.map(lambda u, i: -row[i].astype(u.dtype) * u, updates, index)
        return updates, ScheduleState(state.count + 1)

    return optax.GradientTransformation(
        lambda params: ScheduleState(jnp.zeros([], jnp.int32)), update
    )


def make_optimizer(
    cfg: OptimizerConfig,
    schedule: ScheduleConfig,
    params: Params,
    steps_per_epoch: int,
    complete: Params | None = None,
    half: Any = None,
) -> tuple[optax.GradientTransformation, np.ndarray]:
    """The optimiser that a config asks for, and its learning-rate table [rows, groups].

    Args:
      cfg: name ("adam" | "adamw" | "sgd"), learning_rate, weight_decay, b1, b2, eps, momentum,
        groups.
      schedule: see `learning_rate` and `learning_rate_table`.
      params, complete: as in `parameter_groups`.
      steps_per_epoch: updates per epoch.
      half: None, or which parameters are float16 without a master copy, see `without_master_copy`.

    Raises:
      ValueError: for an unknown name, or a group table that does not fit `params`; `half` with
        another optimiser than "adam", which the release has.
    """
    groups = parameter_groups(params, tuple(cfg.groups), complete)
    rate = cfg.learning_rate
    table = learning_rate_table(schedule, rate, groups.multipliers, steps_per_epoch)
    decay = optax.add_decayed_weights(cfg.weight_decay, groups.decay)
    adam = optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.eps)
    steps = {
        "adam": (decay, adam),  # classic L2: the decay enters the moments, as released
        "adamw": (adam, decay),
        "sgd": (decay, optax.trace(decay=cfg.momentum)),
    }
    if cfg.name not in steps:
        raise ValueError(f"optimizer.name is {cfg.name!r}, expected one of {sorted(steps)}")
    steps_per_row = steps_per_epoch * epochs(schedule) // len(table)
    schedule_step = scale_by_rate_table(table, groups.index, steps_per_row)
    if half is None:
        return optax.chain(*steps[cfg.name], schedule_step), table
    if cfg.name != "adam":
        raise ValueError(f"optimizer.name is {cfg.name!r}, float16 parameters need 'adam'")
    adam = scale_by_float16_adam(cfg.b1, cfg.b2, cfg.eps, half)
    return without_master_copy([decay, adam, schedule_step], half), table


def named_like(params: Params, pattern: str) -> Any:
    """A tree of bools like the parameters: whether the pattern is in the parameter's path."""
    return jax.tree.map_with_path(lambda path, _: bool(re.search(pattern, path_name(path))), params)


def without_master_copy(
    steps: Sequence[optax.GradientTransformation], half: Any
) -> optax.GradientTransformation:
    """The steps of an optimiser that trains float16 parameters directly, as the released IRRA does.

    Gradients, moments and parameters keep float32 arrays here, but hold values that float16 has:
    small gradients and their squares vanish, and an update of less than half a unit in the last
    place of its parameter is lost. A float32 master copy, as mixed precision usually keeps, loses
    neither. Between these values is computed in float32 (the release rounds there, too).

    half: tree of bools like the parameters, True for those that are float16.
    """
    chain = optax.chain(*steps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        assert params is not None, "it rounds the new parameters"
        updates, state = chain.update(_in_float16(updates, half), state, params)
        new = _in_float16(jax.tree.map(jnp.add, params, updates), half)
        change = lambda n, p, u, h: jnp.where(h, n - p, u)  # noqa: E731
        return jax.tree.map(change, new, params, updates, half), state

    return optax.GradientTransformation(chain.init, update)


def scale_by_float16_adam(
    b1: float, b2: float, eps: float, half: Any
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` whose moments are rounded before they are used, see above."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = _in_float16(optax.tree.update_moment(updates, state.mu, b1, 1), half)
        nu = _in_float16(optax.tree.update_moment(updates, state.nu, b2, 2), half)
        count = state.count + 1
        mu_hat = optax.tree.bias_correction(mu, b1, count)
        nu_hat = optax.tree.bias_correction(nu, b2, count)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)


def _in_float16(tree: Any, half: Any) -> Any:
    return jax.tree.map(lambda x, h: jnp.where(h, x.astype(jnp.float16), x), tree, half)
