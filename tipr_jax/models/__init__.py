"""One paper per file; `MODELS` is the table the trainer and the command line choose from."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx

from tipr_jax.models import irra


class Method(NamedTuple):
    """What the trainer knows about a paper.

    config: frozen dataclass of plain data; model: `Model(config, policy, rngs=...)` with
    `encode_image` and `encode_text`; prepare_inputs(batch, key, config) runs on the device;
    objective(model, inputs, config) -> dict of scalars whose `*_loss` entries are summed.
    """

    config: type
    model: type[nnx.Module]
    prepare_inputs: Callable[..., dict]
    objective: Callable[..., dict[str, Any]]


MODELS = {"irra": Method(irra.Config, irra.Irra, irra.prepare_inputs, irra.objective)}
