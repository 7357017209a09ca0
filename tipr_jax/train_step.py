"""One training step, as the paper reads: augment and mask, losses on the global batch, update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tipr_jax.models.method import Inputs, Method, ModelConfig, Params, Terms
from tipr_jax.train_state import TrainState, join, statistics_of

# (params, statistics, inputs) -> (gradient of the objective, its terms, new statistics)
Gradient = Callable[[Params, Params, Inputs], tuple[Params, Terms, Params]]


def total_loss(terms: dict[str, jax.Array]) -> jax.Array:
    """Sum of the entries whose name ends in `_loss` (they carry their weights)."""
    if not any(name.endswith("_loss") for name in terms):
        raise ValueError("no loss term to train on; set --config.model.losses")
    return _sum_losses(terms)


def _sum_losses(terms: dict[str, jax.Array]) -> jax.Array:
    return sum((v for name, v in terms.items() if name.endswith("_loss")), jnp.zeros(()))


def make_train_step(
    method: Method,
    config: ModelConfig,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    root_key: jax.Array,
    micro_batches: int = 1,
) -> Callable[[TrainState, dict], tuple[TrainState, dict[str, jax.Array]]]:
    """The pure function (state, batch) -> (state, metrics); jit it with the shardings.

    Randomness comes from `fold_in(root_key, step)` alone, so a resumed run repeats it to the bit.
    With `micro_batches` > 1 the same gradients take less memory and one more forward pass.
    """
    if micro_batches > 1:
        gradient = accumulated_gradient(method, config, graphdef, micro_batches)
    else:
        gradient = full_gradient(method, config, graphdef)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = batch | {name: of_pair[batch["pair_id"]] for name, of_pair in state.pairs.items()}
        inputs = method.prepare_inputs(batch, jax.random.fold_in(root_key, state.step), config)
        grads, terms, statistics = gradient(state.params, state.statistics, inputs)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = terms | {"loss": total_loss(terms), "grad_norm": optax.tree.norm(grads)}
        state = TrainState(state.step + 1, params, opt_state, statistics, state.pairs)
        return state, jax.tree.map(jnp.float32, metrics)

    return train_step


def full_gradient(method: Method, config: ModelConfig, graphdef: nnx.GraphDef) -> Gradient:
    """The whole batch at once."""

    def loss(params: Params, statistics: Params, inputs: Inputs) -> tuple[jax.Array, tuple]:
        model = nnx.merge(graphdef, join(params, statistics))
        terms = method.objective(model, inputs, config)
        return total_loss(terms), (terms, statistics_of(model))

    def gradient(
        params: Params, statistics: Params, inputs: Inputs
    ) -> tuple[Params, Terms, Params]:
        grads, (terms, new) = jax.grad(loss, has_aux=True)(params, statistics, inputs)
        return grads, terms, new

    return gradient


def accumulated_gradient(
    method: Method, config: ModelConfig, graphdef: nnx.GraphDef, micro_batches: int
) -> Gradient:
    """`full_gradient` with the activations of one micro-batch at a time; the negatives stay global.

    First pass: pooled features of all rows, without activations. The losses over the whole batch
    give their gradient with respect to these features (GradCache, Gao et al. 2021). Second pass:
    each micro-batch again, with activations, pulls that gradient back to the parameters.
    """
    check_micro_batches(method, micro_batches)
    parts = method.parts
    assert parts, "check_micro_batches refuses a method without parts"

    def forward(params: Any, inputs: dict) -> tuple[nnx.Module, Any, Any]:
        model = nnx.merge(graphdef, params)
        return model, *parts.forward(model, inputs, config)

    def gradient(
        params: Params, statistics: Params, inputs: Inputs
    ) -> tuple[Params, Terms, Params]:
        if statistics:
            raise ValueError(
                f"micro_batches is {micro_batches}, but the model keeps statistics of its batches "
                f"({', '.join(sorted(statistics))}); use --config.micro_batches=1"
            )
        part = lambda tree, i: micro_batch(tree, i, micro_batches)  # noqa: E731
        order = jnp.arange(micro_batches)
        pooled = jax.lax.map(lambda i: forward(params, part(inputs, i))[1], order)

        def batch_loss(params: Any, pooled: Any) -> tuple[jax.Array, dict]:
            terms = parts.batch_terms(nnx.merge(graphdef, params), pooled, inputs, config)
            return _sum_losses(terms), terms

        batch_gradient = jax.grad(batch_loss, (0, 1), has_aux=True)
        (grads, d_pooled), batch_terms = batch_gradient(params, whole_batch(pooled))
        totals = parts.totals(inputs, config)

        def row_loss(params: Any, i: jax.Array) -> tuple[jax.Array, dict]:
            rows = part(inputs, i)
            model, pooled, tokens = forward(params, rows)
            terms = parts.row_terms(model, tokens, rows, config, totals)
            # The derivative of this product is the pooled features' share of the gradient.
            pulled_back = optax.tree.vdot(pooled, part(d_pooled, i))
            return jnp.add(pulled_back, _sum_losses(terms)), terms

        def add(sums: tuple[Any, dict], i: jax.Array) -> tuple[tuple[Any, dict], None]:
            return jax.tree.map(jnp.add, sums, jax.grad(row_loss, has_aux=True)(params, i)), None

        no_terms = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(row_loss, params, order[0])[1]
        )
        (grads, row_terms), _ = jax.lax.scan(add, (grads, no_terms), order)
        return grads, batch_terms | row_terms, {}

    return gradient


def check_micro_batches(
    method: Method, micro_batches: int, batch_size: int = 0, shards: int = 1
) -> None:
    """Raises ValueError for a method that cannot be cut, or a batch that does not divide.

    batch_size: global; shards: devices that share the batch.
    """
    if micro_batches < 1:
        raise ValueError(f"micro_batches is {micro_batches}, expected at least 1")
    if micro_batches > 1 and method.parts is None:
        raise ValueError(
            f"micro_batches is {micro_batches}, but {method.config.__module__} computes its "
            "objective in one piece; use --config.micro_batches=1"
        )
    pieces = micro_batches * shards
    if batch_size % pieces:
        raise ValueError(
            f"data.batch_size {batch_size} is not divisible by {micro_batches} micro-batches x "
            f"{shards} devices; use --config.data.batch_size="
            f"{max(pieces, batch_size // pieces * pieces)} or change --config.micro_batches"
        )


def micro_batch(tree: Any, i: jax.Array, count: int) -> Any:
    """Rows i, i + count, ... of every array: with the batch sharded, each device uses its own."""

    def leaf(x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, count, *x.shape[1:])
        return jax.lax.dynamic_index_in_dim(rows, i, axis=1, keepdims=False)

    return jax.tree.map(leaf, tree)


def whole_batch(tree: Any) -> Any:
    """Stacked micro-batches [count, rows, ...] as the batch they were cut from."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), tree)
