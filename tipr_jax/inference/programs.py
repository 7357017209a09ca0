"""A model's encoders as programs that run without the model's code: StableHLO from `jax.export`.

| program            | (parameters, ...)                             | gives                   |
|--------------------|-----------------------------------------------|-------------------------|
| encode_image       | image uint8 [B,H,W,3]                         | features float32 [B,C]  |
| encode_text        | text_ids int32 [B,L]                          | features float32 [B,C]  |
| encode_text_<lang> | the same, in a language other than the first  | features float32 [B,C]  |
| image_tokens       | image uint8 [B,H,W,3]                         | tokens [B,1+P,D]        |
| text_tokens        | text_ids int32 [B,L]                          | tokens [B,L,D], mask    |
| match              | image tokens, text tokens and mask of N pairs | logits [N,2], 1 "match" |

The last three are there if the model can match. Normalisation of pixels is inside. The batch is
symbolic, so a program takes any number of rows. Parameters are an argument, {path: array} with
paths as in "image_encoder/proj", and hold what this program reads and nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jax.interpreters import partial_eval

from tipr_jax.inference.encoders import Functions
from tipr_jax.inference.exported import text_program
from tipr_jax.models.method import Method, ModelConfig
from tipr_jax.param_tree import flatten, unflatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.train_state import define_model

PLATFORMS = ("cpu", "cuda", "tpu")
INPUTS = {  # of the programs that do not take text_ids
    "encode_image": ("image",),
    "image_tokens": ("image",),
    "text_tokens": ("text_ids",),
    "match": ("image_tokens", "text_tokens", "text_mask"),
}


class Program(NamedTuple):
    """module: serialised `jax.export.Exported`. parameters: paths of the arrays that it takes."""

    module: bytes
    parameters: tuple[str, ...]


def inputs_of(name: str) -> tuple[str, ...]:
    """What a program takes besides the parameters, by name."""
    return INPUTS.get(name, ("text_ids",))


def outputs_of(name: str) -> tuple[str, ...]:
    """What a program gives, by name: its own, and with the tokens of a text their mask."""
    return ("text_tokens", "text_mask") if name == "text_tokens" else (name,)


def functions(method: Method, config: ModelConfig, policy: ComputePolicy) -> dict[str, Callable]:
    """What the programs of a model compute, by name: functions of (variables, *inputs)."""
    config = config.for_inference()
    run = Functions(define_model(method, config, policy)[0], policy.compute)
    found: dict[str, Callable] = {"encode_image": run.encode_image}
    for index in range(max(1, len(config.languages))):
        found[text_program(config.languages, index)] = _in_language(run, index)
    if config.can_match:
        found |= {
            "image_tokens": lambda params, image: run.image_tokens(params, image)[1],
            "text_tokens": run.text_tokens,
            "match": run.match,
        }
    return found


def input_shapes(
    method: Method, config: ModelConfig, policy: ComputePolicy, rows: Any
) -> tuple[dict[str, Any], dict[str, jax.ShapeDtypeStruct]]:
    """Shapes of the parameters by path, and of what the programs take, by name of the input.

    rows: of the batch, a number or a symbol.
    """
    config = config.for_inference()
    shapes = flatten(nnx.to_pure_dict(define_model(method, config, policy)[1]))
    inputs = {
        "image": jax.ShapeDtypeStruct((rows, *config.image_size, 3), np.uint8),
        "text_ids": jax.ShapeDtypeStruct((rows, config.text_length), np.int32),
    }
    if config.can_match:
        for name in ("image_tokens", "text_tokens"):
            run = functions(method, config, policy)[name]
            given = inputs[INPUTS[name][0]]
            made = jax.eval_shape(run, unflatten(shapes), given)
            inputs |= zip(outputs_of(name), jax.tree.leaves(made), strict=True)
    return shapes, inputs


def make_programs(
    method: Method, config: ModelConfig, policy: ComputePolicy, platforms: Sequence[str] = PLATFORMS
) -> dict[str, Program]:
    """The programs of a model, by name.

    config: training heads are left out. policy: without flash attention, which is of one platform.
    """
    (rows,) = export.symbolic_shape("rows")
    shapes, inputs = input_shapes(method, config, policy, rows)
    return {
        name: _program(function, shapes, tuple(inputs[i] for i in inputs_of(name)), platforms)
        for name, function in functions(method, config, policy).items()
    }


def _in_language(run: Functions, index: int) -> Callable:
    return lambda params, text_ids: run.encode_text(params, text_ids, index)


def _program(
    function: Callable, shapes: dict[str, Any], inputs: tuple, platforms: Sequence[str]
) -> Program:
    taken = _read(function, shapes, inputs)
    rest = {path: shape for path, shape in shapes.items() if path not in taken}

    def run(given: dict[str, jax.Array], *inputs: Any) -> Any:
        unread = {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in rest.items()}
        return function(unflatten(given | unread), *inputs)

    given = {path: shapes[path] for path in taken}
    exported = export.export(jax.jit(run), platforms=platforms)(given, *inputs)
    return Program(bytes(exported.serialize()), taken)


def _read(function: Callable, shapes: dict[str, Any], inputs: tuple) -> tuple[str, ...]:
    """The paths of the parameters that decide what a function gives."""
    paths = sorted(shapes)  # the order in which JAX flattens a dict
    traced = jax.make_jaxpr(lambda given, *inputs: function(unflatten(given), *inputs))
    jaxpr = traced(shapes, *inputs).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return tuple(path for path, is_used in zip(paths, used, strict=False) if is_used)
