"""Devices and layout: the mesh, the logical axis names, and the one table that maps them.

Modules name the axes of their parameters (EMBED, MLP, ...); `RULES[mode]` maps these names to
the axes of the mesh ("data", "model"). Data parallel, fully sharded and tensor parallel training
are three tables, not three code paths. Losses see the global batch as one array.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

if TYPE_CHECKING:
    from flax import nnx

BATCH = "batch"
EMBED = "embed"  # the residual width
MLP = "mlp"  # the hidden width of a feed-forward layer
HEADS = "heads"
PARTS = "parts"  # query, key and value, which are computed one by one
HEAD_DIM = "head_dim"
VOCAB = "vocab"  # token vocabulary, identity classes

DATA, MODEL = "data", "model"

RULES: dict[str, dict[str, Any]] = {
    "data_parallel": {BATCH: (DATA, MODEL)},
    "fully_sharded": {BATCH: (DATA, MODEL), EMBED: (DATA, MODEL)},
    "tensor_parallel": {BATCH: DATA, MLP: MODEL, HEADS: MODEL, VOCAB: MODEL},
}


def make_mesh(data: int = -1, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh ("data", "model") over all devices; `data=-1` takes what `model` leaves.

    `devices` may belong to a machine that is not there, to compile for it.

    Raises:
      ValueError: if data * model is not the number of devices.
    """
    n = len(jax.devices() if devices is None else devices)
    if data == -1 and model > 0 and n % model == 0:
        data = n // model
    if model < 1 or data * model != n:
        raise ValueError(
            f"mesh data={data} x model={model} does not cover {n} devices; "
            f"set --config.mesh.data and --config.mesh.model so that their product is {n}"
        )
    axis_types = (AxisType.Auto,) * 2
    return jax.make_mesh((data, model), (DATA, MODEL), axis_types=axis_types, devices=devices)


def named(init: "nnx.Initializer", *axes: str | None) -> "nnx.Initializer":
    """Attaches logical axis names to the parameter that `init` creates."""
    from flax import nnx  # here: the index of a gallery is laid out without it, and starts sooner

    return nnx.with_metadata(init, axes=axes)


def mesh_spec(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: dict) -> P:
    """Mesh axes for logical `axes`; an axis whose size does not divide is left replicated.

    `axes` is padded on the left: layers stacked for a scan have one more leading axis.
    """
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)

    def place(axis: str | None, size: int) -> Any:
        target = rules.get(axis)
        names = (target,) if isinstance(target, str) else target or ()
        return target if names and size % math.prod(mesh.shape[n] for n in names) == 0 else None

    return P(*map(place, axes, shape))


def param_shardings(abstract_params: "nnx.State", mesh: Mesh, rules: dict) -> dict:
    """NamedSharding of every parameter, as the nested dict that `TrainState.params` is."""

    def leaf(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
        return NamedSharding(mesh, mesh_spec(axes, shape, mesh, rules))

    return map_variables(leaf, abstract_params)


def map_variables(
    function: Callable[[tuple[str | None, ...], tuple[int, ...]], Any], abstract: "nnx.State"
) -> dict:
    """A function of the logical axes and the shape of every variable, as a nested dict.

    A variable without names has the axes (); one of a stack has more axes than names.
    """
    from flax import nnx

    def leaf(variable: nnx.Variable) -> Any:
        return function(variable.get_metadata().get("axes", ()), variable.shape)

    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    return nnx.to_pure_dict(jax.tree.map(leaf, abstract, is_leaf=is_variable))


def like_params(tree: Any, shardings: dict, mesh: Mesh) -> Any:
    """Sharding of any tree: a leaf whose path ends like a parameter's takes its sharding.

    This is how optimiser moments find their layout; everything else is replicated.
    """
    by_path = {_names(path): s for path, s in jax.tree.leaves_with_path(shardings)}

    def leaf(path: tuple, value: Any) -> NamedSharding:
        names = _names(path)
        found = [by_path[names[i:]] for i in range(len(names)) if names[i:] in by_path]
        return found[0] if found else replicated(mesh)

    return jax.tree.map_with_path(leaf, tree)


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((k,), simple=True) for k in path)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, rules: dict) -> NamedSharding:
    """Sharding of the leading (batch) axis of every array of a batch."""
    return NamedSharding(mesh, P(rules[BATCH]))


def batch_shards(mesh: Mesh, rules: dict) -> int:
    """Into how many pieces the batch axis is cut."""
    return _pieces(batch_sharding(mesh, rules))


def _pieces(sharding: NamedSharding) -> int:
    names = sharding.spec[0]
    names = (names,) if isinstance(names, str) else names
    return math.prod(sharding.mesh.shape[name] for name in names)


def check_batch_size(field: str, batch_size: int, mesh: Mesh, rules: dict) -> None:
    """Raises ValueError if the global batch cannot be cut evenly over the devices.

    `field` of the config is where the batch size comes from.
    """
    n = batch_shards(mesh, rules)
    if batch_size < 1 or batch_size % n:
        raise ValueError(
            f"{field} {batch_size} is not divisible by the {n} devices that share the batch; "
            f"use --config.{field}={max(n, batch_size // n * n)} or change --config.mesh"
        )


@functools.lru_cache
def _own_pieces(sharding: NamedSharding) -> np.ndarray:
    """int [n], ascending: the pieces of the batch that devices of this process hold."""
    indices = sharding.addressable_devices_indices_map((_pieces(sharding),)).values()
    starts = []
    for index in indices:
        assert index, "the batch is cut along its first axis"
        starts.append(index[0].indices(_pieces(sharding))[0])
    return np.unique(starts)


def process_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """int [b], ascending: the rows of a global batch that this process feeds.

    They follow from the layout, not from the process number: a mesh may order the devices in its
    own way, and processes that share one model by tensor parallelism feed the same rows.
    """
    rows = np.arange(batch_size).reshape(_pieces(sharding), -1)
    return rows[_own_pieces(sharding)].reshape(-1)


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Global arrays from this process's rows, in the order of `process_rows`."""
    own = _own_pieces(sharding)

    def put(local: np.ndarray) -> jax.Array:
        rows = len(local) // len(own)  # of a piece
        shape = (rows * _pieces(sharding), *local.shape[1:])

        def piece(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index, "the batch is cut along its first axis"
            position = np.searchsorted(own, (index[0].start or 0) // rows)
            return local[position * rows : (position + 1) * rows]

        return jax.make_array_from_callback(shape, sharding, piece)

    return jax.tree.map(put, batch)


def put_params(params: Any, shardings: Any) -> Any:
    """Global arrays from whole numpy arrays that every process has."""

    def put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)

    return jax.tree.map(put, params, shardings)
