"""Released Bi-IRRA checkpoints, and the X2-VLM / CCLM checkpoints that they start from.

Both layouts are brought into one, X2-VLM's names without "roberta." and "bert.", of which `table`
is the key table. The layout of the X2-VLM file is inferred from its code.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tipr_jax.pretrained import bert, key_table
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import (
    CONV,
    IDENTITY,
    LEADING_ONES,
    Row,
    StateDict,
    Transform,
    attention_layout,
    layer_norm,
    linear,
)

log = logging.getLogger(__name__)

WORD = "text_encoder.embeddings.word_embeddings.weight"
HEAD = "mlm_head.predictions."
DECODER = f"{HEAD}decoder.weight"
TIED_SOURCES = ("decoder", "embedding", "both")

# Constants, rebuilt by the model, and a head of another task.
IGNORED = re.compile(r"\.relative_position_index$|\.position_ids$|^bbox_head\.")

# Top-level names of our parameters that a file may lack, and what the keys of each begin with.
OPTIONAL = {
    "fusion": "cross_encoder.",
    "mlm_head": "mlm_head.",
    "itm_head": "itm_head.",
    "mim_head": "mim_head.",
    "target_proj": "tl_text_proj.",
    "classifier": "classifier.",
    "temperature": "temp",
}


def vision_table(prefix: str, head_dim: int) -> list[Row]:
    """BEiT v2. Letters: W width, p patch, R relative positions, H heads."""
    layout, block = attention_layout(head_dim), f"{prefix}blocks.{{i}}"
    heads = Transform(lambda x: x.reshape(-1, head_dim), lambda x: x.reshape(-1))
    ours = "image_encoder/blocks"
    return [
        Row(f"{prefix}cls_token", "image_encoder/class_embed", LEADING_ONES, "1 1 W"),
        Row(f"{prefix}mask_token", "image_encoder/mask_embed", LEADING_ONES, "1 1 W"),
        Row(
            f"{prefix}patch_embed.proj.weight", "image_encoder/patch_embed/kernel", CONV, "W 3 p p"
        ),
        Row(f"{prefix}patch_embed.proj.bias", "image_encoder/patch_embed/bias", IDENTITY, "W"),
        Row(f"{block}.gamma_1", f"{ours}/gamma_1", IDENTITY, "W"),
        Row(f"{block}.gamma_2", f"{ours}/gamma_2", IDENTITY, "W"),
        *layer_norm(f"{block}.norm1", f"{ours}/ln_1", "W"),
        Row(f"{block}.attn.q_bias", f"{ours}/attn/q_bias", heads, "W"),
        Row(f"{block}.attn.v_bias", f"{ours}/attn/v_bias", heads, "W"),
        Row(
            f"{block}.attn.relative_position_bias_table",
            f"{ours}/attn/position_bias",
            IDENTITY,
            "R H",
        ),
        Row(f"{block}.attn.qkv.weight", f"{ours}/attn/qkv", layout.qkv, "3W W"),
        Row(f"{block}.attn.proj.weight", f"{ours}/attn/out/kernel", layout.out, "W W"),
        Row(f"{block}.attn.proj.bias", f"{ours}/attn/out/bias", IDENTITY, "W"),
        *layer_norm(f"{block}.norm2", f"{ours}/ln_2", "W"),
        *linear(f"{block}.mlp.fc1", f"{ours}/mlp/fc_in", "4W", "W"),
        *linear(f"{block}.mlp.fc2", f"{ours}/mlp/fc_out", "W", "4W"),
        *layer_norm(f"{prefix}fc_norm", "image_encoder/ln_post", "W"),
    ]


def text_table(prefix: str, head_dim: int) -> list[Row]:
    """XLM-R. Letters: W width, V vocabulary, T positions, F hidden."""
    embeddings, ours = f"{prefix}embeddings", "text_encoder/embed"
    return [
        Row(f"{embeddings}.word_embeddings.weight", f"{ours}/word", IDENTITY, "V W"),
        Row(f"{embeddings}.position_embeddings.weight", f"{ours}/position", IDENTITY, "T W"),
        Row(f"{embeddings}.token_type_embeddings.weight", f"{ours}/token_type", IDENTITY, "1 W"),
        *layer_norm(f"{embeddings}.LayerNorm", f"{ours}/ln", "W"),
        *bert.fusion_table(prefix, cross=False, head_dim=head_dim, blocks="text_encoder/blocks"),
    ]


def head_table() -> list[Row]:
    """The masked-word head. Letters: W width, V vocabulary."""
    return [
        *linear(f"{HEAD}transform.dense", "mlm_head/dense", "W", "W"),
        *layer_norm(f"{HEAD}transform.LayerNorm", "mlm_head/ln", "W"),
        Row(DECODER, "mlm_head/word", IDENTITY, "V W"),
        Row(f"{HEAD}bias", "mlm_head/bias", IDENTITY, "V"),
    ]


def two_layer_head(key: str, path: str, n_out: str) -> list[Row]:
    return [
        *linear(f"{key}.0", f"{path}/dense", "2W", "W"),
        *layer_norm(f"{key}.1", f"{path}/ln", "2W"),
        *linear(f"{key}.3", f"{path}/fc", n_out, "2W"),
    ]


def _only(x: np.ndarray) -> np.ndarray:
    if len(x) != 1:
        raise ValueError(
            f"the released layout has one target projection, this model has {len(x)} "
            "(separate_target_proj); it cannot be written under the released names"
        )
    return x[0]


ONE_LINEAR = Transform(lambda x: x.T[None], lambda x: _only(x).T)  # [out,in] <-> [1,in,out]
ONE_BIAS = Transform(lambda x: x[None], _only)


def table(head_dim: int) -> list[Row]:
    """The whole model. Letters: C shared embedding, I identities, and the letters of the parts."""
    return [
        *vision_table("vision_encoder.", head_dim),
        *text_table("text_encoder.", head_dim),
        *bert.fusion_table("cross_encoder.", cross=True, head_dim=head_dim),
        *head_table(),
        *linear("vision_proj", "vision_proj", "C", "W"),
        *linear("text_proj", "text_proj", "C", "W"),
        Row("tl_text_proj.weight", "target_proj/kernel", ONE_LINEAR, "C W"),
        Row("tl_text_proj.bias", "target_proj/bias", ONE_BIAS, "C"),
        Row("temp", "temperature", IDENTITY, ""),
        *two_layer_head("itm_head", "itm_head", "2"),
        *two_layer_head("mim_head", "mim_head", "W"),
        *linear("classifier", "classifier", "I", "C"),
    ]


def from_torch(
    state_dict: Mapping[str, np.ndarray], tied_source: str = "decoder"
) -> dict[str, Any]:
    """Released Bi-IRRA or X2-VLM state dict -> parameter tree, float32. Heads may be absent.

    A file without a target projection gets a copy of the source's. If decoder and word embedding
    differ, `tied_source` decides: "decoder" becomes both (what loading with PyTorch does), or
    "embedding", or "both" are kept (a model with tie_decoder=False).

    Raises:
      ValueError: unknown or missing tensors, shapes that disagree; lists them.
    """
    state_dict = common_names(state_dict)
    warn_if_untied(state_dict, tied_source)
    state_dict = tie(state_dict, tied_source)
    params = key_table.to_params(state_dict, _present(state_dict))
    if "target_proj" not in params:
        params["target_proj"] = {k: x[None].copy() for k, x in params["text_proj"].items()}
    return params


def to_torch(params: Mapping[str, Any]) -> StateDict:
    """Parameter tree (or gradients in its shape) -> released names.

    Without second names of tied tensors and without buffers: see `with_tied_names`.

    Raises:
      ValueError: a parameter that the released model does not have.
    """
    return bert.unpack_qkv(released_names(key_table.to_state_dict(params, _rows_of(params))))


def torch_keys(params: Mapping[str, Any]) -> dict[str, tuple[Row, int | None]]:
    """As `key_table.torch_keys`, under X2-VLM's names and with packed projections."""
    return key_table.torch_keys(params, _rows_of(params))


def _rows_of(params: Mapping[str, Any]) -> list[Row]:
    """The table without the single parameters that a model may lack."""
    absent = set()
    if "mask_embed" not in params["image_encoder"]:
        absent.add("image_encoder/mask_embed")
    if "word" not in params.get("mlm_head", {}):
        absent.add("mlm_head/word")
    return [row for row in table(0) if row.path not in absent]


def with_tied_names(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """A released state dict with the decoder's names for the word embedding and its bias."""
    complete, head = dict(state_dict), f"text_encoder.{HEAD}"
    if f"{head}bias" in complete:
        word = complete["text_encoder.bert.embeddings.word_embeddings.weight"]
        complete.setdefault(f"{head}decoder.weight", word)
        complete[f"{head}decoder.bias"] = complete[f"{head}bias"]
    return complete


def common_names(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """Released or X2-VLM names -> X2-VLM's without "roberta." and "bert."; constants left out."""
    state_dict = key_table.without_prefix(state_dict)
    depth = _text_depth(state_dict)
    renamed: StateDict = {}
    for key, value in state_dict.items():
        if IGNORED.search(key):
            continue
        key = re.sub(r"^(text_encoder|cross_encoder)\.(roberta|bert)\.", r"\1.", key)
        key = key.removeprefix("text_encoder.") if key.startswith(f"text_encoder.{HEAD}") else key
        if (layer := re.match(r"text_encoder\.encoder\.layer\.(\d+)\.", key)) and (
            int(layer[1]) >= depth
        ):
            number = int(layer[1]) - depth
            key = f"cross_encoder.encoder.layer.{number}.{key[layer.end() :]}"
        renamed[key] = value
    return bert.pack_qkv(renamed)


def released_names(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """X2-VLM's names -> released names: the fusion layers follow the layers of the text."""
    numbers = (re.match(r"text_encoder\.encoder\.layer\.(\d+)\.", key) for key in state_dict)
    depth = max((int(layer[1]) + 1 for layer in numbers if layer), default=0)
    renamed: StateDict = {}
    for key, value in state_dict.items():
        if layer := re.match(r"cross_encoder\.encoder\.layer\.(\d+)\.", key):
            rest = key[layer.end() :]
            key = f"text_encoder.bert.encoder.layer.{int(layer[1]) + depth}.{rest}"
        elif key.startswith("mlm_head."):
            key = f"text_encoder.{key}"
        elif key.startswith("text_encoder."):
            key = key.replace("text_encoder.", "text_encoder.bert.", 1)
        renamed[key] = value
    return renamed


def _text_depth(state_dict: Mapping[str, np.ndarray]) -> float:
    """In a released file, the number of the first layer with cross-attention."""
    pattern = r"text_encoder\.(?:bert\.|roberta\.)?encoder\.layer\.(\d+)\.crossattention\."
    fusion = [int(layer[1]) for key in state_dict if (layer := re.match(pattern, key))]
    return min(fusion, default=float("inf"))


def tie(state_dict: StateDict, source: str) -> StateDict:
    """One tensor for decoder and word embedding, unless `source` is "both"; one decoder bias."""
    if source not in TIED_SOURCES:
        raise ValueError(f"tied_source is {source!r}, expected one of {TIED_SOURCES}")
    tied = dict(state_dict)
    if f"{HEAD}decoder.bias" in tied:
        tied[f"{HEAD}bias"] = tied.pop(f"{HEAD}decoder.bias")
    if DECODER not in tied or WORD not in tied:
        return tied
    if source == "both":
        return tied
    decoder = tied.pop(DECODER)
    if source == "decoder":
        tied[WORD] = decoder
    return tied


def warn_if_untied(state_dict: Mapping[str, np.ndarray], source: str) -> None:
    """Says what `tie` does with a decoder that is not the word embedding."""
    word, decoder = state_dict.get(WORD), state_dict.get(DECODER)
    if word is None or decoder is None or np.array_equal(word, decoder):
        return
    uses = {
        "decoder": "the model ties them, and the decoder becomes both",
        "embedding": "the model ties them, and the word embedding becomes both",
        "both": "both are kept, for a model with tie_decoder=False",
    }
    log.warning(
        "decoder and word embedding of this file are different matrices: %s; --tied_source chooses",
        uses.get(source, source),
    )


def head_dim_of(state_dict: Mapping[str, np.ndarray], prefix: str = "vision_encoder.") -> int:
    """Width of a head, from the relative position table; text and fusion have the same."""
    name = f"{prefix}blocks.0.attn.relative_position_bias_table"
    if name not in state_dict:
        raise ValueError(f"1 missing tensors: {name}")
    heads = np.shape(state_dict[name])[1]
    return len(np.ravel(state_dict[f"{prefix}cls_token"])) // heads


def _present(state_dict: Mapping[str, np.ndarray]) -> list[Row]:
    """The table without the heads that the file lacks; a damaged head is still reported."""
    absent = {p for p, s in OPTIONAL.items() if not any(key.startswith(s) for key in state_dict)}
    single = {"image_encoder/mask_embed": "vision_encoder.mask_token", "mlm_head/word": DECODER}
    absent |= {path for path, key in single.items() if key not in state_dict}
    return [
        row
        for row in table(head_dim_of(state_dict))
        if row.path.split("/")[0] not in absent and row.path not in absent
    ]


def infer_config(
    state_dict: Mapping[str, np.ndarray],
    image_size: tuple[int, int] | None = None,
    tied_source: str = "decoder",
) -> dict[str, Any]:
    """Fields of `models.bi_irra.Config` that fit a released or X2-VLM state dict.

    image_size: None for the square that the relative position tables were made for.

    Raises:
      ValueError: as `from_torch`, or if the tables belong to another grid of patches.
    """
    state_dict = tie(common_names(state_dict), tied_source)
    sizes = key_table.read_sizes(state_dict, _present(state_dict))
    losses = [name for name, head in LOSS_HEADS.items() if head in sizes_of(state_dict)]
    config = vision_sizes(sizes, image_size) | {
        "text_depth": sizes["text_encoder"],
        "text_heads": sizes["H"],
        "text_ffn": sizes["F"],
        "vocab_size": sizes["V"],
        **position_sizes(sizes["T"]),
        "embed_dim": sizes["C"],
        "losses": tuple(losses),
        "tie_decoder": DECODER not in state_dict,
    }
    if "fusion" in sizes:
        config["fusion_depth"] = sizes["fusion"]
    if "I" in sizes:
        config["num_persons"] = sizes["I"]
    return config


LOSS_HEADS = {
    "itc": "temperature",
    "itm": "itm_head",
    "mlm": "mlm_head",
    "mim": "mim_head",
    "id": "classifier",
}


def sizes_of(state_dict: Mapping[str, np.ndarray]) -> set[str]:
    """Top-level names of our parameters that a state dict holds."""
    return {row.path.split("/")[0] for row in _present(state_dict)}


def position_sizes(rows: int) -> dict[str, int]:
    """Config fields of a text tower with `rows` of positions, two of them for RoBERTa."""
    shorter = {"text_length": rows - 2} if rows < 77 + 2 else {}
    return {"max_positions": rows} | shorter


def vision_sizes(sizes: Mapping[str, int], image_size: tuple[int, int] | None) -> dict[str, Any]:
    """Config fields of the image tower from the letters of `vision_table`.

    Raises:
      ValueError: the relative position tables belong to another grid of patches.
    """
    patch, rows_of_table = sizes["p"], sizes["R"]
    side = (round(np.sqrt(rows_of_table - 3)) + 1) // 2
    height, width = image_size or (side * patch, side * patch)
    rows, cols = height // patch, width // patch
    expected = (2 * rows - 1) * (2 * cols - 1) + 3
    if expected != rows_of_table:
        raise ValueError(
            f"the relative position tables have {rows_of_table} rows, made for {side} x {side} "
            f"patches; image_size {[height, width]} with patch {patch} gives {rows} x {cols}, "
            f"which needs {expected}. Tables are not resampled: use --image_size="
            f"{side * patch},{side * patch}"
        )
    return {
        "image_size": (height, width),
        "patch": patch,
        "width": sizes["W"],
        "vision_depth": sizes["image_encoder"],
        "vision_heads": sizes["H"],
    }


def convert(
    state_dict: StateDict,
    image_size: tuple[int, int] | None,
    stride: int | None,
    tied_source: str = "decoder",
) -> Converted:
    """Released Bi-IRRA or X2-VLM state dict -> (parameters, fields of models.bi_irra.Config)."""
    del stride
    params = from_torch(state_dict, tied_source)
    return params, infer_config(state_dict, image_size, tied_source)


def reverse(params: Mapping[str, Any]) -> StateDict:
    """Parameters -> the released names, the second names of tied tensors included."""
    return with_tied_names(to_torch(params))


CONVERTERS = {
    "bi_irra": Converter(
        method="bi_irra",
        forward=convert,
        reverse=reverse,
        image_size=None,
        test_resize="bicubic",
        options={"tied_source": TIED_SOURCES},
        help="a checkpoint of the released Bi-IRRA, or of X2-VLM / CCLM (.th), where its training "
        "starts. With --reverse: the released names again. --tied_source: the matrix to take if "
        "the decoder of masked words is not the word embedding (default decoder, as loading with "
        "PyTorch does).",
    )
}
