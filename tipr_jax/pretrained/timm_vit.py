"""timm's ViT (`jx_vit_base_p16_224`): the visual and the shared half of IVT."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tipr_jax.pretrained import key_table, settings
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import (
    CONV,
    HEAD_DIM,
    IDENTITY,
    LEADING_ONE,
    LEADING_ONES,
    Row,
    StateDict,
    attention_layout,
    layer_norm,
    linear,
)

# The classifier, also the part of it that models for 21,000 classes have between the two.
IGNORED = ("head.", "pre_logits.")


def table(head_dim: int = HEAD_DIM) -> list[Row]:
    """Letters: W width, X hidden, N 1 + patches, p patch."""
    layout = attention_layout(head_dim)
    block, blocks = "blocks.{i}", "encoder/blocks"
    return [
        Row("cls_token", "encoder/class_embed", LEADING_ONES, "1 1 W"),
        Row("pos_embed", "encoder/pos_embed", LEADING_ONE, "1 N W"),
        Row("patch_embed.proj.weight", "encoder/patch_embed/kernel", CONV, "W 3 p p"),
        Row("patch_embed.proj.bias", "encoder/patch_embed/bias", IDENTITY, "W"),
        *layer_norm(f"{block}.norm1", f"{blocks}/ln_1", "W"),
        Row(f"{block}.attn.qkv.weight", f"{blocks}/attn/qkv/kernel", layout.qkv, "3W W"),
        Row(f"{block}.attn.qkv.bias", f"{blocks}/attn/qkv/bias", layout.qkv_bias, "3W"),
        Row(f"{block}.attn.proj.weight", f"{blocks}/attn/out/kernel", layout.out, "W W"),
        Row(f"{block}.attn.proj.bias", f"{blocks}/attn/out/bias", IDENTITY, "W"),
        *layer_norm(f"{block}.norm2", f"{blocks}/ln_2", "W"),
        *linear(f"{block}.mlp.fc1", "encoder/mlp_image/fc_in", "X", "W"),
        *linear(f"{block}.mlp.fc2", "encoder/mlp_image/fc_out", "W", "X"),
        *layer_norm("norm", "encoder/ln_final", "W"),
    ]


def from_torch(state_dict: Mapping[str, np.ndarray], head_dim: int = HEAD_DIM) -> dict[str, Any]:
    """timm state dict -> {"encoder": ...} without the text parts and `type_embed`, float32.

    The positional embedding keeps the checkpoint's square grid.

    Raises:
      ValueError: unknown or missing tensors, shapes that disagree; a distilled DeiT.
    """
    return key_table.to_params(_used(state_dict), table(head_dim))


def infer_config(state_dict: Mapping[str, np.ndarray], head_dim: int = HEAD_DIM) -> dict[str, int]:
    """The sizes of `models.ivt.Config` that the file decides. Errors as `from_torch`."""
    sizes = key_table.read_sizes(_used(state_dict), table(head_dim))
    width, depth = sizes["W"], sizes["encoder"]
    heads = {"heads": width // head_dim, "image_ffn": key_table.hidden_width(sizes, "X", "W")}
    return {"width": width, "depth": depth, "patch": sizes["p"]} | heads


def _used(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "dist_token" in state_dict:
        raise ValueError(
            "a distilled DeiT (it has a dist_token): its table of positions and its classes belong "
            "to a second token, which IVT does not have; use deit_base_patch16_224 or "
            "jx_vit_base_p16_224"
        )
    return {k: v for k, v in state_dict.items() if not k.startswith(IGNORED)}


def convert(
    state_dict: StateDict,
    image_size: tuple[int, int],
    stride: int | None,
    *,
    head_dim: str = "",
) -> Converted:
    """timm ViT -> (IVT's image and shared parts, positions resized; fields of its Config).

    head_dim: the size of a head, "" for the usual 64.

    Raises:
      ValueError: as `from_torch`; the size of the heads cannot be known.
    """
    from tipr_jax.nn.pos_embed import patch_grid, resize_pos_embed

    width = infer_config(state_dict)["width"]
    size = settings.known_head_dim(settings.Tower(), head_dim, width)
    params, sizes = from_torch(state_dict, size), infer_config(state_dict, size)
    config = {**sizes, "image_size": tuple(image_size), "stride": stride or sizes["patch"]}
    grid = patch_grid(image_size, sizes["patch"], config["stride"])
    encoder = params["encoder"]
    encoder["pos_embed"] = np.asarray(resize_pos_embed(encoder["pos_embed"], grid))
    return params, config


CONVERTERS = {
    "timm_vit": Converter(
        method="ivt",
        forward=convert,
        help="timm's ViT alone (jx_vit_base_p16_224), for IVT.",
        options={"head_dim": settings.HEAD_DIM_OPTION},
    )
}
