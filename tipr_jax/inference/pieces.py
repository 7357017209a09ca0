"""The parameters of a model in pieces: an array for each layer, and for each of query, key, value.

Training keeps the layers of a stack in one array. To compute one layer, XLA copies its part out of
that array, in every call. Of pieces nothing is copied: the compiler knows that a slice of stacked
pieces is a piece, if no loop stands between them (`ComputePolicy.unrolled`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tipr_jax.models.method import Params
from tipr_jax.sharding import PARTS, map_variables


@dataclasses.dataclass(frozen=True)
class Cut:
    """The axes along which a parameter is cut, in rising order; none outside of a stack."""

    axes: tuple[int, ...] = ()

    def pieces(self, array: jax.Array) -> Any:
        """Nested tuples of arrays, the outermost for the first axis; `array` if there is none."""
        if not self.axes:
            return array
        first, inner = self.axes[0], self._inner
        rows = jnp.unstack(array, axis=first)
        return tuple(inner.pieces(row) for row in rows)

    def whole(self, pieces: Any) -> jax.Array:
        """The inverse of `pieces`.

        Raises:
          TypeError: an array that is not in pieces.
        """
        if not self.axes:
            return pieces
        if not isinstance(pieces, tuple):
            raise TypeError(
                f"a parameter of shape {jnp.shape(pieces)} is whole, its pieces along the axes "
                f"{self.axes} were expected; take the parameters from `Encoders.select`"
            )
        return jnp.stack([self._inner.whole(piece) for piece in pieces], axis=self.axes[0])

    def layout(self, sharding: NamedSharding) -> NamedSharding:
        """How every piece lies on the devices if the parameter lies as `sharding`."""
        kept = (name for axis, name in enumerate(sharding.spec) if axis not in self.axes)
        return NamedSharding(sharding.mesh, P(*kept))

    @property
    def _inner(self) -> "Cut":
        return Cut(tuple(axis - 1 for axis in self.axes[1:]))


def cuts(abstract: nnx.State) -> Params:
    """The `Cut` of every variable of a model: the axes of layers, and the axis PARTS.

    abstract: variables that carry the names of their axes; axes of layers come before these.
    """

    def cut(names: tuple[str | None, ...], shape: tuple[int, ...]) -> Cut:
        layers = len(shape) - len(names) if names else 0
        parts = (layers + axis for axis, name in enumerate(names) if name == PARTS)
        return Cut((*range(layers), *parts))

    return map_variables(cut, abstract)
