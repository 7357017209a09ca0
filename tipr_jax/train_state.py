"""What training carries from step to step, and the bridge between parameters and modules."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct

from tipr_jax.models.method import Method, ModelConfig
from tipr_jax.param_tree import Params, flatten, unflatten
from tipr_jax.precision import ComputePolicy


@struct.dataclass
class TrainState:
    """The state of a run.

    step int32 []; params: nested dict of the trained arrays; opt_state of the optax chain;
    statistics: nested dict of a model's other variables, such as the means of a batch norm;
    pairs: {name: [N]}, what the method's epoch hook found out about each training pair.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    statistics: Any = struct.field(default_factory=dict)
    pairs: Any = struct.field(default_factory=dict)

    def as_tree(self) -> dict[str, Any]:
        """What a checkpoint holds: the parts that are not empty, by name."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: part for name, part in parts.items() if not isinstance(part, dict) or part}

    @property
    def weights(self) -> Params:
        """All variables of the model, as evaluation and `nnx.merge` take them."""
        return join(self.params, self.statistics)


def define_model(
    method: Method, config: ModelConfig, policy: ComputePolicy
) -> tuple[nnx.GraphDef, nnx.State, Callable[[jax.Array], Params]]:
    """Structure, abstract variables and initialiser of a model, without allocating it.

    Returns:
      graphdef: `nnx.merge(graphdef, weights)` gives the module back.
      abstract: nnx.State of ShapeDtypeStruct variables that carry the logical axis names.
      init: key -> nested dict of all variables (jit it with `out_shardings`).
    """

    def build(key: jax.Array) -> nnx.Module:
        return method.model(config, policy, rngs=nnx.Rngs(key))

    graphdef, abstract = nnx.split(nnx.eval_shape(build, jax.random.key(0)))
    return graphdef, abstract, lambda key: nnx.to_pure_dict(nnx.state(build(key)))


def trained(abstract: nnx.State) -> Params:
    """The part of a model's abstract variables that an optimiser changes, as a nested dict."""
    return nnx.to_pure_dict(nnx.filter_state(abstract, nnx.Param))


def statistics_of(model: nnx.Module) -> Params:
    """The variables of a module that are not parameters; {} for most."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))


def join(params: Params, statistics: Params) -> Params:
    """One nested dict of two that have no leaf in common."""
    return unflatten(flatten(params) | flatten(statistics)) if statistics else params


def split(weights: Params, params: Params) -> tuple[Params, Params]:
    """(params, statistics): `weights` cut by the nested dict `params` of what is trained."""
    leaves, names = flatten(weights), flatten(params)
    parts = ({k: v for k, v in leaves.items() if (k in names) is kept} for kept in (True, False))
    trained_part, other = map(unflatten, parts)
    return trained_part, other


def select_params(params: Any, like: Any) -> Any:
    """The part of the nested dict `params` that the nested dict `like` has too."""
    if not isinstance(like, dict):
        return params
    return {name: select_params(params[name], like[name]) for name in like if name in params}


def create_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    statistics: Params | None = None,
    pairs: dict[str, jax.Array] | None = None,
) -> TrainState:
    """The state at step 0."""
    step = jnp.zeros([], jnp.int32)
    return TrainState(step, params, optimizer.init(params), statistics or {}, pairs or {})


def count_parameters(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))
