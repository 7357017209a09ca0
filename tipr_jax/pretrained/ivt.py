"""The released IVT checkpoint, both directions, and ViT and BERT as the start of its training.

A fine-tuned file holds the trunk (`encoder_vl.*`) and tensors that nothing reads; a pre-training
file the trunk, the fusion encoder and its heads.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tipr_jax.param_tree import flatten, unflatten
from tipr_jax.pretrained import bert, key_table, timm_vit
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import (
    HEAD_DIM,
    IDENTITY,
    LEADING_ONE,
    Row,
    StateDict,
    linear,
)
from tipr_jax.pretrained.settings import HEAD_DIM_OPTION, Settings

FUSION = "encoder_fusion.bert."
HEAD = "encoder_fusion.cls.predictions."

# Inert in the released model: never read in a forward pass, or constants, or second names of a
# shared tensor. The released loader copies what it finds, so files without them load there too.
INERT = re.compile(
    r"^classifier_img\.|^bottleneck_img\.|\.position_ids$"
    r"|^encoder_fusion\.bert\.embeddings\.|\.predictions\.decoder\.bias$"
)
WORD_TABLE = f"{FUSION}embeddings.word_embeddings.weight"  # the same tensor as the decoder's weight


def table(head_dim: int = HEAD_DIM) -> list[Row]:
    """Letters: W width, X, G and F hidden widths (image, text, fusion), N 1 + patches, p patch,
    V vocabulary, T text positions."""
    image = (
        row._replace(key=f"encoder_vl.{row.key.replace('.mlp.', '.mlp_vis.')}")
        for row in timm_vit.table(head_dim)
    )
    text_layer = "encoder_vl.blocks.{i}.mlp_txt.fc1|encoder_vl.blocks.{i}.mlp_txt.fc2"
    return [
        *image,
        Row("encoder_vl.type_embed", "encoder/type_embed", LEADING_ONE, "1 N W"),
        *bert.text_table("encoder_vl.embeddings", text_layer),
        *bert.fusion_table(FUSION, cross=True, head_dim=head_dim),
        *bert.head_table(HEAD),
        *linear("itm", "itm_head", "2", "W"),
        Row("temp", "temperature", IDENTITY, ""),
    ]


TABLE = table()


def from_torch(state_dict: Mapping[str, np.ndarray], head_dim: int = HEAD_DIM) -> dict[str, Any]:
    """Official state dict, fine-tuned or pre-training -> parameter tree, float32.

    Raises:
      ValueError: unknown or missing tensors, shapes that disagree; lists them.
    """
    state_dict = _used(state_dict)
    return key_table.to_params(state_dict, _present(state_dict, head_dim))


def to_torch(params: Mapping[str, Any]) -> StateDict:
    """Parameter tree (or gradients in its shape) -> official state dict, without inert tensors.

    Raises:
      ValueError: a parameter that the released model does not have.
    """
    return bert.unpack_qkv(key_table.to_state_dict(params, TABLE))


def infer_config(
    state_dict: Mapping[str, np.ndarray],
    image_size: tuple[int, int] = (384, 128),
    stride: int | None = None,
    head_dim: int = HEAD_DIM,
) -> dict[str, Any]:
    """Fields of `models.ivt.Config` that fit an official state dict.

    All sizes follow from shapes but the head dimension, `image_size` and `stride` (None: patches
    do not overlap), of which only the number of patches can be checked.

    Raises:
      ValueError: as `from_torch`, or if the positional embedding has another number of rows.
    """
    from tipr_jax.nn.pos_embed import patch_grid

    state_dict = _used(state_dict)
    sizes = key_table.read_sizes(state_dict, _present(state_dict, head_dim))
    config = {
        "image_size": tuple(image_size),
        "patch": sizes["p"],
        "stride": stride or sizes["p"],
        "width": sizes["W"],
        "depth": sizes["encoder"],
        "heads": sizes["W"] // head_dim,
        "image_ffn": key_table.hidden_width(sizes, "X", "W"),
    } | bert.text_sizes(sizes)
    rows, cols = patch_grid(image_size, config["patch"], config["stride"])
    if sizes["N"] != 1 + rows * cols:
        raise ValueError(
            f"the positional embedding has {sizes['N']} rows, but image_size {list(image_size)} "
            f"with stride {config['stride']} gives 1 + {rows} x {cols} = {1 + rows * cols}; "
            "pass the --image_size and --stride it was trained with"
        )
    if "fusion" in sizes:
        pretraining = {"losses": ("itc", "itm", "mlm"), "levels": ("sentence",), "mask": "none"}
        config |= {"fusion_depth": sizes["fusion"], "fusion_ffn": sizes["F"]} | pretraining
    return config


def _used(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """Without "module." and inert tensors, projections packed."""
    state_dict = key_table.without_prefix(state_dict)
    used = {key: value for key, value in state_dict.items() if not INERT.search(key)}
    if not any(key.startswith(FUSION) for key in used):
        used.pop("temp", None)  # a relic in fine-tuned files
    elif WORD_TABLE in state_dict:
        used.setdefault(f"{HEAD}decoder.weight", state_dict[WORD_TABLE])
    return bert.pack_qkv(used)


def _present(state_dict: Mapping[str, np.ndarray], head_dim: int) -> list[Row]:
    """The table without the heads that the file lacks; a damaged head is still reported."""
    starts = {"fusion": FUSION, "mlm_head": HEAD, "itm_head": "itm.", "temperature": "temp"}
    absent = {p for p, s in starts.items() if not any(key.startswith(s) for key in state_dict)}
    return [row for row in table(head_dim) if row.path.split("/")[0] not in absent]


def convert(state_dict: StateDict, image_size: tuple[int, int], stride: int | None) -> Converted:
    """Released IVT state dict -> (parameters, fields of models.ivt.Config)."""
    return from_torch(state_dict), infer_config(state_dict, image_size, stride)


def convert_vit_and_bert(
    image: StateDict,
    text: StateDict,
    image_size: tuple[int, int],
    stride: int | None,
    *,
    settings: Sequence[Settings] = ({}, {}),
    head_dim: str = "",
) -> Converted:
    """timm ViT and BERT -> (where IVT's training starts; fields of models.ivt.Config).

    `type_embed` has no source and starts fresh.
    """
    (visual, sizes), (textual, text_sizes) = (
        timm_vit.convert(image, image_size, stride, head_dim=head_dim),
        bert.convert(text, image_size, stride, settings=settings),
    )
    for name in ("width", "depth", "heads"):
        if sizes[name] != text_sizes[name]:
            raise ValueError(
                f"{name} of the ViT is {sizes[name]}, of the BERT {text_sizes[name]}; they share "
                "one transformer, so take two models of one size"
            )
    return unflatten(flatten(visual) | flatten(textual)), text_sizes | sizes


CONVERTERS = {
    "ivt": Converter(
        method="ivt",
        forward=convert,
        reverse=to_torch,
        help="a checkpoint of the released IVT, fine-tuned or pre-training. With --reverse: the "
        "official names again, without tensors that the released model never reads (its loader "
        "does not miss them).",
    ),
    "ivt_init": Converter(
        method="ivt",
        forward=convert_vit_and_bert,
        sources=2,
        reads_settings=True,
        options={"head_dim": HEAD_DIM_OPTION},
        help="--input: timm's ViT (jx_vit_base_p16_224), --text: BERT-base-uncased. Start of IVT's "
        "training and pre-training; positions resized as above.",
    ),
}
