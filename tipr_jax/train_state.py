"""What training carries from step to step, and the bridge between parameters and modules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct

from tipr_jax.models import Method
from tipr_jax.precision import ComputePolicy


@struct.dataclass
class TrainState:
    """step int32 []; params: nested dict of arrays; opt_state of the optax chain."""

    step: jax.Array
    params: Any
    opt_state: Any


def define_model(
    method: Method, config: Any, policy: ComputePolicy
) -> tuple[nnx.GraphDef, nnx.State, Callable[[jax.Array], Any]]:
    """Structure, abstract parameters and initialiser of a model, without allocating it.

    Returns:
      graphdef: `nnx.merge(graphdef, params)` gives the module back.
      abstract: nnx.State of ShapeDtypeStruct variables that carry the logical axis names.
      init: key -> nested dict of parameters (jit it with `out_shardings`).
    """

    def build(key: jax.Array) -> nnx.Module:
        return method.model(config, policy, rngs=nnx.Rngs(key))

    graphdef, abstract = nnx.split(nnx.eval_shape(build, jax.random.key(0)), nnx.Param)
    return graphdef, abstract, lambda key: nnx.to_pure_dict(nnx.state(build(key), nnx.Param))


def select_params(params: Any, like: Any) -> Any:
    """Those of `params`, a nested dict, that the nested dict `like` has too."""
    if not isinstance(like, dict):
        return params
    return {name: select_params(params[name], like[name]) for name in like if name in params}


def create_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros([], jnp.int32), params, optimizer.init(params))


def count_parameters(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))
