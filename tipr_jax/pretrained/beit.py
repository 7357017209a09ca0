"""BEiT v2 under the names of its release and of timm: the image tower without X2-VLM."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tipr_jax.pretrained import key_table
from tipr_jax.pretrained.bi_irra import head_dim_of, vision_sizes, vision_table
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import Row, StateDict

IGNORED = re.compile(r"^(lm_)?head\.|relative_position_index$|\.k_bias$|^cls_pt_layers\.")
SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"  # one for all blocks: pre-training files


def from_torch(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """State dict -> {"image_encoder": ...}, float32.

    Raises:
      ValueError: unknown or missing tensors, shapes that disagree.
    """
    state_dict = _names(state_dict)
    return key_table.to_params(state_dict, _rows(state_dict))


def infer_config(
    state_dict: Mapping[str, np.ndarray], image_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The sizes of `models.bi_irra.Config` that the file decides; see `bi_irra.vision_sizes`."""
    state_dict = _names(state_dict)
    return vision_sizes(key_table.read_sizes(state_dict, _rows(state_dict)), image_size)


def _names(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """One table per block, and the last norm under the name of models that average patches."""
    named = {key: value for key, value in state_dict.items() if not IGNORED.search(key)}
    if SHARED_TABLE in named:
        shared = named.pop(SHARED_TABLE)
        blocks = {key.split(".")[1] for key in named if key.startswith("blocks.")}
        for number in blocks:
            named[f"blocks.{number}.attn.relative_position_bias_table"] = shared
    for part in ("weight", "bias"):
        if f"norm.{part}" in named:
            named.setdefault(f"fc_norm.{part}", named.pop(f"norm.{part}"))
    return named


def _rows(state_dict: Mapping[str, np.ndarray]) -> list[Row]:
    rows = vision_table("", head_dim_of(state_dict, ""))
    return [row for row in rows if row.key != "mask_token" or row.key in state_dict]


def convert(
    state_dict: StateDict, image_size: tuple[int, int] | None, stride: int | None
) -> Converted:
    """BEiT v2 -> (Bi-IRRA's image tower, fields of models.bi_irra.Config)."""
    del stride
    return from_torch(state_dict), infer_config(state_dict, image_size)


CONVERTERS = {
    "beit": Converter(
        method="bi_irra",
        forward=convert,
        image_size=None,
        test_resize="bicubic",
        help="BEiT v2 alone, for Bi-IRRA.",
    )
}
