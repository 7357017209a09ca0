"""What a training step costs before it runs: FLOPs, and memory per device.

Both are read off the traced computation (shapes only, nothing is allocated or compiled), so they
hold for every method, size and mesh.

Model FLOPs of a training step = 3 x (2 x multiply-adds of every matrix product and convolution in
the forward pass): the backward pass costs two products for each one. That is the convention behind
utilisation figures. Elementwise work, the optimiser and what `remat` computes again do not count,
causal attention counts in full, and of a `cond` the cheapest branch counts.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.extend.core import Jaxpr, JaxprEqn

from tipr_jax import sharding
from tipr_jax.experiment import Experiment, abstract_batch
from tipr_jax.models.method import Inputs, Params
from tipr_jax.precision import policy
from tipr_jax.train_state import TrainState, define_model
from tipr_jax.train_step import total_loss

GB = 1e9

AbstractBatch = Mapping[str, jax.ShapeDtypeStruct]


def flops(function: Callable, *args: Any) -> int:
    """FLOPs of one call: 2 x multiply-adds of its products. `args` may be ShapeDtypeStructs.

    The body of a `while_loop` counts once, since nobody knows how often it runs.
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def _jaxpr_flops(jaxpr: Jaxpr) -> int:
    return sum(map(_equation_flops, jaxpr.eqns))


def _equation_flops(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        lhs, out = _array(equation.invars[0]), _array(equation.outvars[0])
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * out.size * math.prod(lhs.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, out = _array(equation.invars[1]), _array(equation.outvars[0])
        return 2 * out.size * kernel.size // kernel.shape[params["dimension_numbers"].rhs_spec[0]]
    if name == "cond":
        return min(map(_jaxpr_flops, _nested(params)))
    return params.get("length", 1) * sum(map(_jaxpr_flops, _nested(params)))


def _array(variable: Any) -> Any:
    """The shape and dtype of an equation's variable, for which JAX has no public type."""
    return variable.aval


def _nested(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs that an equation calls."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)  # of a ClosedJaxpr
            if hasattr(item, "eqns"):
                yield item


def train_step_flops(exp: Experiment, batch: AbstractBatch) -> int:
    """Model FLOPs of one step on the global `batch`, whatever attention kernel computes them."""
    loss, params, inputs = _traceable(exp, batch, remat="none")
    return 3 * flops(loss, params, inputs)


def encode_flops(exp: Experiment, method: str, batch: jax.ShapeDtypeStruct) -> int:
    """Model FLOPs of `encode_image` or `encode_text` on `batch`."""
    graphdef, _, init = _model(exp, remat="none")
    params = jax.eval_shape(init, exp.keys[0])
    return flops(lambda p, x: getattr(nnx.merge(graphdef, p), method)(x), params, batch)


def largest_array(function: Callable, *args: Any) -> int:
    """Bytes of the largest array that `function` computes."""
    return _largest(jax.make_jaxpr(function)(*args).jaxpr)


def _largest(jaxpr: Jaxpr) -> int:
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += map(_largest, _nested(equation.params))
        if equation.primitive.name != "scan":  # what it stacks is kept, not worked on
            arrays = map(_array, equation.outvars)
            sizes += [_size(array) for array in arrays if array.shape]
    return max(sizes)


class Memory(NamedTuple):
    """Bytes on one device during a training step."""

    parameters: int
    optimiser: int
    gradients: int
    activations: int  # what the forward pass keeps for the backward pass
    working: int  # twice the largest array of the forward pass: it and its gradient
    batch: int

    @property
    def total(self) -> int:
        return sum(self)


def memory_estimate(exp: Experiment, abstract: TrainState, batch: AbstractBatch) -> Memory:
    """Memory of one device, from `experiment.abstract_state` and the shapes of the global batch.

    Activations are what XLA's attention keeps; with tensor parallelism this is an upper bound. Of a
    `cond` the largest branch counts, which XLA keeps room for.
    """
    pieces = sharding.batch_shards(exp.mesh, exp.rules)
    parameters = _bytes_per_device(abstract.params)
    rows = _cut(batch, pieces * exp.config.micro_batches)
    loss, params, inputs = _traceable(exp, rows, remat=exp.config.remat)
    return Memory(
        parameters=parameters,
        optimiser=_bytes_per_device(abstract.opt_state),
        gradients=parameters,
        activations=residual_bytes(loss, params, inputs),
        working=2 * largest_array(loss, params, inputs),
        batch=sum(map(_size, jax.tree.leaves(_cut(batch, pieces)))),
    )


def residual_bytes(loss: Callable, params: Any, inputs: Any) -> int:
    """What reverse-mode differentiation of loss(params, inputs) keeps, beside its arguments."""

    def kept(params: Any, inputs: Any) -> list:
        return jax.tree.leaves(jax.vjp(lambda p: loss(p, inputs), params)[1])

    jaxpr = jax.make_jaxpr(kept)(params, inputs).jaxpr
    arguments = set(map(id, jaxpr.invars))
    kept_once = {id(v): v.aval for v in jaxpr.outvars if id(v) not in arguments}
    return sum(map(_size, kept_once.values()))


def describe(exp: Experiment, abstract: TrainState) -> str:
    """One line about the run's memory, for before the first compilation."""
    memory = memory_estimate(exp, abstract, abstract_batch(exp))
    return describe_memory(memory, device_capacity(), can_be_cut=exp.method.parts is not None)


def describe_memory(memory: Memory, capacity: int, *, can_be_cut: bool) -> str:
    """One line: the estimate, its parts, and what to change if a device has less than it.

    capacity: bytes of a device; can_be_cut: whether the method's objective works in micro-batches.
    """
    total, *parts = (f"{x / GB:.3g}" for x in (memory.total, *memory))
    named = ", ".join(f"{k} {v}" for k, v in zip(memory._fields, parts, strict=True))
    line = f"memory estimate {total} of {capacity / GB:.3g} GB per device: {named}"
    if memory.total > capacity:
        line += (
            "; it will not fit: use a smaller --config.data.batch_size, --config.remat=full"
            f"{', --config.micro_batches' if can_be_cut else ''} or, on several devices, "
            "--config.mesh.rules=fully_sharded"
        )
    return line


def device_capacity() -> int:
    """Bytes that one device may use; on CPU its share of the host's memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return host // jax.local_device_count()


def _model(
    exp: Experiment, remat: str
) -> tuple[nnx.GraphDef, nnx.State, Callable[[jax.Array], Params]]:
    """As `define_model`, with XLA's attention, whose products a trace can see."""
    how = policy(exp.config.precision, remat=remat, attention="xla")
    return define_model(exp.method, exp.model_config, how)


def _traceable(
    exp: Experiment, batch: AbstractBatch, remat: str
) -> tuple[Callable[[Params, Inputs], jax.Array], Params, Inputs]:
    """(loss(params, inputs), abstract params, abstract inputs)."""
    graphdef, _, init = _model(exp, remat)
    rows = len(batch["valid"])
    # The rows of one device, or of a micro-batch, may be less than a whole group.
    config = exp.model_config.with_row_group(math.gcd(exp.model_config.row_group, rows))
    if hook := exp.method.epoch_hook:  # the step finds these arrays in the state
        batch = dict(batch) | {
            name: jax.ShapeDtypeStruct((rows, *column.shape), column.dtype)
            for name, column in hook.arrays(config).items()
        }
    inputs = jax.eval_shape(
        lambda b, key: exp.method.prepare_inputs(b, key, config), batch, exp.keys[1]
    )

    def loss(params: Params, inputs: Inputs) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return total_loss(exp.method.objective(model, inputs, config))

    return loss, jax.eval_shape(init, exp.keys[0]), inputs


def _cut(batch: AbstractBatch, pieces: int) -> AbstractBatch:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0] // pieces, *x.shape[1:]), x.dtype), batch
    )


def _bytes_per_device(tree: Any) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _size(x: Any) -> int:
    return math.prod(x.shape) * x.dtype.itemsize
