"""The checkpoint that IRRA's released code writes: its key table, both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tipr_jax.pretrained import key_table, openai_clip
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import StateDict, attention, blocks, layer_norm, linear

# Letters as in openai_clip.TABLE; I identities.
TABLE = [
    *(row._replace(key=f"base_model.{row.key}") for row in openai_clip.table()),
    *linear("classifier", "classifier", "I", "C"),
    *attention("cross_attn", "fusion/cross_attn", "C"),
    *blocks("cross_modal_transformer", "fusion/blocks", "C"),
    *layer_norm("ln_pre_t", "fusion/ln_text", "C"),
    *layer_norm("ln_pre_i", "fusion/ln_image", "C"),
    *layer_norm("ln_post", "fusion/ln_post", "C"),
    *linear("mlm_head.dense", "mlm_head/dense", "C", "C"),
    *layer_norm("mlm_head.ln", "mlm_head/ln", "C"),
    *linear("mlm_head.fc", "mlm_head/fc", "V", "C"),
]


def from_torch(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Official state dict -> parameter tree, float32. Heads that were not trained may be absent.

    Raises:
      ValueError: unknown or missing tensors, shapes that disagree; lists them.
    """
    state_dict = key_table.without_prefix(state_dict)
    return key_table.to_params(state_dict, _present(state_dict))


def to_torch(params: Mapping[str, Any]) -> StateDict:
    """Parameter tree (or gradients in its shape) -> official state dict; inverse of `from_torch`.

    Raises:
      ValueError: a parameter that the released model does not have.
    """
    return key_table.to_state_dict(params, TABLE)


def infer_config(
    state_dict: Mapping[str, np.ndarray],
    image_size: tuple[int, int] = (384, 128),
    stride: int | None = None,
) -> dict[str, Any]:
    """Fields of `models.irra.Config` that fit an official state dict.

    All sizes follow from shapes but `image_size` and `stride` (None: patches do not overlap), of
    which only the number of patches can be checked.

    Raises:
      ValueError: as `from_torch`, or if the positional embedding has another number of rows.
    """
    state_dict = key_table.without_prefix(state_dict)
    sizes = key_table.read_sizes(state_dict, _present(state_dict))
    config: dict[str, Any] = openai_clip.config_sizes(sizes) | {"losses": ("sdm",)}
    if "fusion" in sizes:
        config |= {"fusion_depth": sizes["fusion"], "losses": (*config["losses"], "mlm")}
    if "I" in sizes:
        config |= {"num_persons": sizes["I"], "losses": (*config["losses"], "id")}
    stride = stride or config["patch"]
    rows, cols = ((size - config["patch"]) // stride + 1 for size in image_size)
    if sizes["N"] != 1 + rows * cols:
        raise ValueError(
            f"the positional embedding has {sizes['N']} rows, but image_size {list(image_size)} "
            f"with stride {stride} gives 1 + {rows} x {cols} = {1 + rows * cols}; "
            "pass the --image_size and --stride it was trained with"
        )
    return config | {"image_size": tuple(image_size), "stride": stride}


def _present(state_dict: Mapping[str, np.ndarray]) -> list[key_table.Row]:
    """The table without the heads of losses that the model was not trained with.

    A head counts as present if any of its tensors is, so a damaged one is still reported.
    """
    heads = {"classifier": ["classifier."], "fusion": ["cross_", "ln_p", "mlm_"]}
    heads["mlm_head"] = heads["fusion"]  # the two come together
    absent = {
        path
        for path, starts in heads.items()
        if not any(key.startswith(start) for key in state_dict for start in starts)
    }
    return [row for row in TABLE if row.path.split("/")[0] not in absent]


def convert(state_dict: StateDict, image_size: tuple[int, int], stride: int | None) -> Converted:
    """Released IRRA state dict -> (parameters, fields of models.irra.Config)."""
    return from_torch(state_dict), infer_config(state_dict, image_size, stride)


CONVERTERS = {
    "irra": Converter(
        method="irra",
        forward=convert,
        reverse=to_torch,
        help="best.pth of the released IRRA. With --reverse: the official names again, readable by "
        "the released PyTorch code.",
    )
}
