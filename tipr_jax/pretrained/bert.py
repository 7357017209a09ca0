"""BERT-base-uncased: the textual half of IVT, and its fusion encoder.

The retrieval model takes the embeddings and the feed-forward layers; BERT's attention and norms
are not used, because the image transformer's attention and norms serve both modalities. The
pre-training heads take layers 0 to 5 (the released choice; not the last six) without their
cross-attention.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tipr_jax.pretrained import key_table
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import (
    HEAD_DIM,
    IDENTITY,
    Row,
    StateDict,
    attention_layout,
    layer_norm,
    linear,
)
from tipr_jax.pretrained.settings import Settings, check_activation, known_head_dim, transformer

# Prediction of the next sentence, and constants.
IGNORED = re.compile(r"^pooler\.|^cls\.seq_relationship\.|position_ids$|predictions\.decoder\.")
ATTENTION = re.compile(r"\.(attention|crossattention)\.")
DEFAULT_TEXT_LENGTH = 100  # of `models.ivt.Config`
LAYER_NORMS = re.compile(r"^encoder\.layer\.\d+\.output\.LayerNorm\.")


def text_table(key: str, layer: str) -> list[Row]:
    """Embeddings and feed-forward layers; letters: W width, G hidden, V vocabulary, T positions.

    `key` prefixes the embeddings; `layer` is the pattern of the two linear layers.
    """
    fc_in, fc_out = layer.split("|")
    return [
        Row(f"{key}.word_embeddings.weight", "encoder/text_embed/word", IDENTITY, "V W"),
        Row(f"{key}.position_embeddings.weight", "encoder/text_embed/position", IDENTITY, "T W"),
        Row(
            f"{key}.token_type_embeddings.weight", "encoder/text_embed/token_type", IDENTITY, "2 W"
        ),
        *layer_norm(f"{key}.LayerNorm", "encoder/text_embed/ln", "W"),
        *linear(fc_in, "encoder/mlp_text/fc_in", "G", "W"),
        *linear(fc_out, "encoder/mlp_text/fc_out", "W", "G"),
    ]


def fusion_table(
    prefix: str,
    *,
    cross: bool,
    ffn: str = "F",
    head_dim: int = HEAD_DIM,
    blocks: str = "fusion/blocks",
) -> list[Row]:
    """Post-norm layers with packed projections (see `pack_qkv`), letters: W width, F hidden."""
    layout = attention_layout(head_dim)
    layer = f"{prefix}encoder.layer.{{i}}"

    def attention(key: str, path: str, norm: str) -> list[Row]:
        return [
            Row(f"{key}.self.qkv.weight", f"{blocks}/{path}/qkv/kernel", layout.qkv, "3W W"),
            Row(f"{key}.self.qkv.bias", f"{blocks}/{path}/qkv/bias", layout.qkv_bias, "3W"),
            Row(f"{key}.output.dense.weight", f"{blocks}/{path}/out/kernel", layout.out, "W W"),
            Row(f"{key}.output.dense.bias", f"{blocks}/{path}/out/bias", IDENTITY, "W"),
            *layer_norm(f"{key}.output.LayerNorm", f"{blocks}/{norm}", "W"),
        ]

    return [
        *attention(f"{layer}.attention", "self_attn", "ln_1"),
        *(attention(f"{layer}.crossattention", "cross_attn", "ln_2") if cross else ()),
        *linear(f"{layer}.intermediate.dense", f"{blocks}/mlp/fc_in", ffn, "W"),
        *linear(f"{layer}.output.dense", f"{blocks}/mlp/fc_out", "W", ffn),
        *layer_norm(f"{layer}.output.LayerNorm", f"{blocks}/ln_3", "W"),
    ]


def head_table(prefix: str) -> list[Row]:
    """The masked-word head; its word table is the decoder's weight."""
    return [
        *linear(f"{prefix}transform.dense", "mlm_head/dense", "W", "W"),
        *layer_norm(f"{prefix}transform.LayerNorm", "mlm_head/ln", "W"),
        Row(f"{prefix}decoder.weight", "mlm_head/word", IDENTITY, "V W"),
        Row(f"{prefix}bias", "mlm_head/bias", IDENTITY, "V"),
    ]


TABLE = text_table(
    "embeddings", "encoder.layer.{i}.intermediate.dense|encoder.layer.{i}.output.dense"
)


def from_torch(
    state_dict: Mapping[str, np.ndarray], head_dim: int = HEAD_DIM, fusion_depth: int = 6
) -> dict[str, Any]:
    """BERT state dict -> {"encoder": text parts}, and "fusion", "mlm_head" as far as it has them.

    Raises:
      ValueError: unknown or missing tensors, shapes that disagree.
    """
    state_dict = _plain_names(state_dict)
    params = key_table.to_params(_text_part(state_dict), TABLE)
    layers = {
        key: value
        for key, value in state_dict.items()
        if (match := re.match(r"encoder\.layer\.(\d+)\.", key)) and int(match[1]) < fusion_depth
    }
    if any(ATTENTION.search(key) for key in layers):
        rows = fusion_table("", cross=False, head_dim=head_dim)
        params |= key_table.to_params(pack_qkv(layers), rows)
    head = {k: v for k, v in state_dict.items() if k.startswith("cls.predictions.")}
    if head:
        word = {"cls.predictions.decoder.weight": state_dict["embeddings.word_embeddings.weight"]}
        params |= key_table.to_params(head | word, head_table("cls.predictions."))
    return params


def infer_config(state_dict: Mapping[str, np.ndarray], head_dim: int = HEAD_DIM) -> dict[str, int]:
    """The sizes of `models.ivt.Config` that the file decides. Errors as `from_torch`."""
    sizes = key_table.read_sizes(_text_part(_plain_names(state_dict)), TABLE)
    return text_sizes(sizes) | {
        "width": sizes["W"],
        "depth": sizes["encoder"],
        "heads": sizes["W"] // head_dim,
        "fusion_ffn": sizes["G"],
    }


def text_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Letters of `text_table` -> fields; a short position table bounds the length of texts too."""
    fields = {
        "vocab_size": sizes["V"],
        "max_positions": sizes["T"],
        "text_ffn": key_table.hidden_width(sizes, "G", "W"),
    }
    return fields | ({"text_length": sizes["T"]} if sizes["T"] < DEFAULT_TEXT_LENGTH else {})


def pack_qkv(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """Query, key and value of one attention become one tensor ".self.qkv."; others are kept."""
    packed = dict(state_dict)
    for key in [k for k in packed if ".self.query." in k]:
        names = [key.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(name in packed for name in names):
            parts = [packed.pop(name) for name in names]
            packed[key.replace(".query.", ".qkv.")] = np.concatenate(parts)
    return packed


def unpack_qkv(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """The inverse of `pack_qkv`."""
    unpacked: StateDict = {}
    for key, value in state_dict.items():
        if ".self.qkv." in key:
            for part, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                unpacked[key.replace(".qkv.", f".{part}.")] = third
        else:
            unpacked[key] = value
    return unpacked


def _plain_names(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """Without the "bert." of models with heads, and LayerNorm parameters under today's names."""
    renamed = {}
    for key, value in state_dict.items():
        key = key.removeprefix("bert.")
        key = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key)
        key = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", key)
        if not IGNORED.search(key):
            renamed[key] = value
    return renamed


def _text_part(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """What the retrieval model takes."""
    dropped = (ATTENTION, LAYER_NORMS, re.compile(r"^cls\."))
    return {k: v for k, v in state_dict.items() if not any(p.search(k) for p in dropped)}


def convert(
    state_dict: StateDict,
    image_size: tuple[int, int],
    stride: int | None,
    *,
    settings: Sequence[Settings] = ({},),
) -> Converted:
    """BERT -> (IVT's text parts, fusion encoder and word head; fields of models.ivt.Config)."""
    del image_size, stride
    tower = transformer(settings[-1])
    check_activation(tower, "gelu")
    dim = known_head_dim(tower, "", infer_config(state_dict)["width"])
    return from_torch(state_dict, dim), infer_config(state_dict, dim)


CONVERTERS = {
    "bert": Converter(
        method="ivt",
        forward=convert,
        reads_settings=True,
        help="BERT-base-uncased alone, for IVT.",
    )
}
