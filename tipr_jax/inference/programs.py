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
from tipr_jax.models.method import Method, ModelConfig
from tipr_jax.param_tree import flatten, unflatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.train_state import define_model

PLATFORMS = ("cpu", "cuda", "tpu")


class Program(NamedTuple):
    """module: serialised `jax.export.Exported`. parameters: paths of the arrays that it takes."""

    module: bytes
    parameters: tuple[str, ...]


def text_program(languages: Sequence[str], language: int) -> str:
    """Name of the program that encodes texts of this language, an index into `languages`."""
    return f"encode_text_{languages[language]}" if language else "encode_text"


def make_programs(
    method: Method, config: ModelConfig, policy: ComputePolicy, platforms: Sequence[str] = PLATFORMS
) -> dict[str, Program]:
    """The programs of a model, by name.

    config: training heads are left out. policy: without flash attention, which is of one platform.
    """
    config = config.for_inference()
    graphdef, abstract, _ = define_model(method, config, policy)
    run = Functions(graphdef, policy.compute)
    shapes = flatten(nnx.to_pure_dict(abstract))
    (rows,) = export.symbolic_shape("rows")
    image = jax.ShapeDtypeStruct((rows, *config.image_size, 3), np.uint8)
    text_ids = jax.ShapeDtypeStruct((rows, config.text_length), np.int32)

    functions: dict[str, tuple[Callable, tuple]] = {"encode_image": (run.encode_image, (image,))}
    for index in range(max(1, len(config.languages))):
        encode = _in_language(run, index)
        functions[text_program(config.languages, index)] = encode, (text_ids,)
    if config.can_match:
        params = unflatten(shapes)
        _, tokens = jax.eval_shape(run.image_tokens, params, image)
        text, mask = jax.eval_shape(run.text_tokens, params, text_ids)
        functions |= {
            "image_tokens": (lambda params, image: run.image_tokens(params, image)[1], (image,)),
            "text_tokens": (run.text_tokens, (text_ids,)),
            "match": (run.match, (tokens, text, mask)),
        }
    return {
        name: _program(function, shapes, inputs, platforms)
        for name, (function, inputs) in functions.items()
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
