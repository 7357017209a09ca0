"""The checkpoint that RDE's released code writes: its key table, both directions.

It is IRRA's without training heads, plus two layers that select tokens.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tipr_jax.pretrained import irra, key_table
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import IDENTITY, Row, StateDict, layer_norm, linear

# Released name (spelt so over there) -> (ours, the layer that skips the batch norm).
SELECTIONS = {
    "visul_emb_layer": ("image_selection", "fc"),
    "texual_emb_layer": ("text_selection", "linear"),
}


def _selection(key: str, path: str, skip: str) -> list[Row]:
    """Letters: C shared embedding, E token-selection embedding, U the width in between."""
    norm = f"{key}.mlp.bns.0"
    return [
        *linear(f"{key}.{skip}", f"{path}/skip_proj", "E", "C"),
        *linear(f"{key}.mlp.layers.0", f"{path}/hidden_proj", "U", "C"),
        *linear(f"{key}.mlp.layers.1", f"{path}/out_proj", "E", "U"),
        *layer_norm(norm, f"{path}/hidden_norm", "U"),
        Row(f"{norm}.running_mean", f"{path}/hidden_norm/mean", IDENTITY, "U"),
        Row(f"{norm}.running_var", f"{path}/hidden_norm/var", IDENTITY, "U"),
    ]


TABLE = [
    *(row for row in irra.TABLE if row.key.startswith("base_model.")),
    *(row for key, (path, skip) in SELECTIONS.items() for row in _selection(key, path, skip)),
]


def unused(embed_dim: int, tse_dim: int) -> StateDict:
    """Tensors of a released file that its model never reads, as a fresh batch norm has them.

    Of visul_emb_layer.linear, which no gradient reaches, the values are 0 instead of random.
    """
    one = np.ones(tse_dim, np.float32)
    found: StateDict = {
        "visul_emb_layer.linear.weight": np.zeros((tse_dim, embed_dim), np.float32),
        "visul_emb_layer.linear.bias": 0 * one,
    }
    for key in SELECTIONS:
        second = {"weight": one, "bias": 0 * one, "running_mean": 0 * one, "running_var": one}
        found |= {f"{key}.mlp.bns.1.{name}": value for name, value in second.items()}
        # int64, a count that torch needs for other momenta than this one alone.
        found |= {f"{key}.mlp.bns.{i}.num_batches_tracked": np.zeros((), np.int64) for i in (0, 1)}
    return found


UNUSED = frozenset(unused(1, 1))


def from_torch(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Official state dict -> all variables of the model, float32, running statistics included.

    The tensors named `UNUSED` may be absent.

    Raises:
      ValueError: unknown or missing tensors, shapes that disagree; lists them.
    """
    return key_table.to_params(_read(state_dict), TABLE)


def to_torch(params: Mapping[str, Any]) -> StateDict:
    """All variables of the model -> official state dict; inverse of `from_torch`.

    The tensors named `UNUSED` are written, too, because the released code asks for them.

    Raises:
      ValueError: a parameter that the released model does not have.
    """
    state_dict = key_table.to_state_dict(params, TABLE)
    return state_dict | unused(*np.shape(params["image_selection"]["skip_proj"]["kernel"]))


def infer_config(
    state_dict: Mapping[str, np.ndarray],
    image_size: tuple[int, int] = (384, 128),
    stride: int | None = None,
) -> dict[str, Any]:
    """Fields of `models.rde.Config` that fit an official state dict; arguments as for IRRA.

    No shape tells `select_ratio`, for which the published 0.3 is taken.

    Raises:
      ValueError: as `from_torch`, or if the positional embedding has another number of rows.
    """
    state_dict = _read(state_dict)
    tse_dim = key_table.read_sizes(state_dict, TABLE)["E"]
    towers = {key: value for key, value in state_dict.items() if key.startswith("base_model.")}
    sizes = irra.infer_config(towers, image_size, stride)
    return sizes | {"losses": ("tal",), "tse_dim": tse_dim}


def _read(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """What the model reads of a released file."""
    state_dict = key_table.without_prefix(state_dict)
    return {key: value for key, value in state_dict.items() if key not in UNUSED}


def convert(state_dict: StateDict, image_size: tuple[int, int], stride: int | None) -> Converted:
    """Released RDE state dict -> (variables, fields of models.rde.Config)."""
    return from_torch(state_dict), infer_config(state_dict, image_size, stride)


CONVERTERS = {
    "rde": Converter(
        method="rde",
        forward=convert,
        reverse=to_torch,
        help="best.pth of the released RDE. With --reverse: the official names again, readable by "
        "the released PyTorch code.",
    )
}
