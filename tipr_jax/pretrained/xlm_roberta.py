"""XLM-R under the names of Hugging Face: text tower and masked-word head without X2-VLM."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tipr_jax.pretrained import beit, bert, key_table
from tipr_jax.pretrained.bi_irra import DECODER, HEAD, head_table, position_sizes, text_table
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import HEAD_DIM, Row, StateDict
from tipr_jax.pretrained.settings import Settings, check_activation, transformer

IGNORED = re.compile(r"\.position_ids$|^pooler\.|^lm_head\.decoder\.")  # the decoder is tied
RENAMED = (
    (r"^lm_head\.dense\.", f"{HEAD}transform.dense."),
    (r"^lm_head\.layer_norm\.", f"{HEAD}transform.LayerNorm."),
    (r"^lm_head\.bias$", f"{HEAD}bias"),
    (r"^(embeddings|encoder)\.", r"text_encoder.\1."),
)


def from_torch(state_dict: Mapping[str, np.ndarray], head_dim: int = HEAD_DIM) -> dict[str, Any]:
    """State dict -> {"text_encoder": ...} and, if the file has it, {"mlm_head": ...}, float32.

    Raises:
      ValueError: unknown or missing tensors, shapes that disagree.
    """
    state_dict = _names(state_dict)
    return key_table.to_params(state_dict, _rows(state_dict, head_dim))


def infer_config(state_dict: Mapping[str, np.ndarray], head_dim: int = HEAD_DIM) -> dict[str, int]:
    """The sizes of `models.bi_irra.Config` that the file decides."""
    state_dict = _names(state_dict)
    sizes = key_table.read_sizes(state_dict, _rows(state_dict, head_dim))
    return {
        "width": sizes["W"],
        "text_depth": sizes["text_encoder"],
        "text_heads": sizes["W"] // head_dim,
        "text_ffn": sizes["F"],
        "vocab_size": sizes["V"],
        **position_sizes(sizes["T"]),
    }


def _names(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    named: StateDict = {}
    for key, value in state_dict.items():
        key = key.removeprefix("roberta.")
        if IGNORED.search(key):
            continue
        for pattern, replacement in RENAMED:
            key = re.sub(pattern, replacement, key)
        named[key] = value
    return bert.pack_qkv(named)


def _rows(state_dict: Mapping[str, np.ndarray], head_dim: int) -> list[Row]:
    rows = text_table("text_encoder.", head_dim)
    if f"{HEAD}bias" in state_dict:
        rows += [row for row in head_table() if row.key != DECODER]
    return rows


def convert(
    state_dict: StateDict,
    image_size: tuple[int, int] | None,
    stride: int | None,
    *,
    settings: Sequence[Settings] = ({},),
) -> Converted:
    """XLM-R -> (Bi-IRRA's text tower and word head, fields of models.bi_irra.Config)."""
    del image_size, stride
    tower = transformer(settings[-1])
    check_activation(tower, "gelu")
    dim = tower.head_dim or HEAD_DIM
    return from_torch(state_dict, dim), infer_config(state_dict, dim)


def convert_with_beit(
    image: StateDict,
    text: StateDict,
    image_size: tuple[int, int] | None,
    stride: int | None,
    *,
    settings: Sequence[Settings] = ({}, {}),
) -> Converted:
    """BEiT v2 and XLM-R -> (both towers, fields of models.bi_irra.Config); no fusion encoder."""
    visual, sizes = beit.convert(image, image_size, stride)
    textual, text_sizes = convert(text, image_size, stride, settings=settings)
    if sizes["width"] != text_sizes["width"]:
        raise ValueError(
            f"width of the BEiT is {sizes['width']}, of the XLM-R {text_sizes['width']}; the "
            "fusion encoder reads both, so take two models of one width"
        )
    return visual | textual, text_sizes | sizes


CONVERTERS = {
    "xlm_roberta": Converter(
        method="bi_irra",
        forward=convert,
        image_size=None,
        test_resize="bicubic",
        reads_settings=True,
        help="XLM-R alone, for Bi-IRRA.",
    ),
    "bi_irra_init": Converter(
        method="bi_irra",
        forward=convert_with_beit,
        image_size=None,
        sources=2,
        reads_settings=True,
        test_resize="bicubic",
        help="--input: BEiT v2, --text: XLM-R. A start for Bi-IRRA without X2-VLM; the fusion "
        "encoder is fresh.",
    ),
}
