"""One training step, as the paper reads: augment and mask, losses on the global batch, update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tipr_jax.models import Method
from tipr_jax.train_state import TrainState


def total_loss(terms: dict[str, jax.Array]) -> jax.Array:
    """Sum of the entries whose name ends in `_loss` (they carry their weights)."""
    losses = [value for name, value in terms.items() if name.endswith("_loss")]
    if not losses:
        raise ValueError("no loss term to train on; set --config.model.losses")
    return sum(losses)


def make_train_step(
    method: Method,
    config: Any,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    root_key: jax.Array,
) -> Callable[[TrainState, dict], tuple[TrainState, dict[str, jax.Array]]]:
    """The pure function (state, batch) -> (state, metrics); jit it with the shardings.

    Randomness comes from `fold_in(root_key, step)` alone, so a resumed run repeats it to the bit.
    """

    def loss(params: Any, inputs: dict) -> tuple[jax.Array, dict]:
        terms = method.objective(nnx.merge(graphdef, params), inputs, config)
        return total_loss(terms), terms

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        inputs = method.prepare_inputs(batch, jax.random.fold_in(root_key, state.step), config)
        (total, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params, inputs)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = terms | {"loss": total, "grad_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, params, opt_state), jax.tree.map(jnp.float32, metrics)

    return train_step
