"""Runs a graph of TensorFlow's operators in JAX: the few that NanoDet-g has.

The meaning of every operator is TensorFlow's (www.tensorflow.org/api_docs/python/tf/raw_ops). Whole
numbers among the weights are shapes, axes and paddings, which must be known when the program is
compiled; they stay numpy arrays.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Attributes = Mapping[str, Any]


class Node(NamedTuple):
    """An operator; inputs: (name of the node or weight, which of its outputs)."""

    name: str
    op: str
    inputs: tuple[tuple[str, int], ...]
    attributes: Attributes


Graph = tuple[Node, ...]


def read(path: Path) -> Graph:
    """The nodes of a graph file that `nanodet_weights` wrote, in the order of computation.

    Raises:
      ValueError: an operator that is not known here.
    """
    nodes = []
    for entry in json.loads(path.read_text()):
        name, op, inputs = entry.pop("name"), entry.pop("op"), entry.pop("inputs")
        if op != "Placeholder" and op not in OPERATORS:
            raise ValueError(f"{path}: operator {op} is not known; fetch the weights again")
        nodes.append(Node(name, op, tuple((i, n) for i, n in inputs), entry))
    return tuple(nodes)


def split(
    weights: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(float32 arrays to compute with, whole numbers that say what to compute)."""
    floats = {n: np.asarray(w, np.float32) for n, w in weights.items() if w.dtype.kind == "f"}
    return floats, {name: w for name, w in weights.items() if name not in floats}


def run(graph: Graph, weights: Mapping[str, Any], given: jax.Array) -> list[jax.Array]:
    """The outputs, in the order of the graph: those of nodes that no other node takes.

    weights: by name, floats as arrays of JAX. given: the value of the only placeholder.
    """
    values: dict[str, Sequence[Any]] = {name: [value] for name, value in weights.items()}
    for node in graph:
        if node.op == "Placeholder":
            values[node.name] = [given]
            continue
        result = OPERATORS[node.op](node.attributes, *(values[i][n] for i, n in node.inputs))
        values[node.name] = result if isinstance(result, list) else [result]
    taken = {name for node in graph for name, _ in node.inputs}
    return [values[node.name][0] for node in graph if node.name not in taken]


def _convolution(attributes: Attributes, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=attributes["strides"][1:3],
        padding=attributes["padding"],
        rhs_dilation=attributes["dilations"][1:3],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _max_pool(attributes: Attributes, x: jax.Array) -> jax.Array:
    window, strides = attributes["ksize"], attributes["strides"]
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, attributes["padding"])


def _resize(attributes: Attributes, x: jax.Array, size: np.ndarray) -> jax.Array:
    shape = (x.shape[0], int(size[0]), int(size[1]), x.shape[3])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def _split(_: Attributes, x: jax.Array, sizes: np.ndarray, axis: np.ndarray) -> list[jax.Array]:
    return jnp.split(x, np.cumsum(sizes)[:-1], int(axis))


def _dense(
    _: Attributes, places: np.ndarray, shape: np.ndarray, values: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """Of numbers known at compilation: an array of `other` with `values` at `places`."""
    out = np.full(shape, other)
    out[tuple(places.T)] = values
    return out


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": lambda _, a, b: a + b,
    "AddV2": lambda _, a, b: a + b,
    "ConcatV2": lambda _, *parts: jnp.concatenate(parts[:-1], int(parts[-1])),
    "Conv2D": _convolution,
    "Identity": lambda _, x: x,
    "LeakyRelu": lambda attributes, x: jax.nn.leaky_relu(x, attributes["alpha"]),
    "MaxPool": _max_pool,
    "Pad": lambda _, x, widths: jnp.pad(x, widths),
    "PadV2": lambda _, x, widths, value: jnp.pad(x, widths, constant_values=value),
    "Reshape": lambda _, x, shape: x.reshape(shape),
    "ResizeBilinear": _resize,
    "Sigmoid": lambda _, x: jax.nn.sigmoid(x),
    "SparseToDense": _dense,
    "SplitV": _split,
    "Transpose": lambda _, x, order: x.transpose(order),
}
