"""CLIP checkpoints: OpenAI's names, and Hugging Face's turned into them.

A CLIP checkpoint holds the two towers only; IRRA's fusion encoder and heads start from their
initialisers.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tipr_jax.pretrained import key_table
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import CONV, IDENTITY, Row, StateDict, blocks, layer_norm

# Shape letters: W vision width, T text width, C shared embedding, p patch, N 1 + patches,
# L text length, V vocabulary.
TABLE: list[Row] = [
    Row("positional_embedding", "text_encoder/pos_embed", IDENTITY, "L T"),
    Row("text_projection", "text_encoder/proj", IDENTITY, "T C"),
    Row("visual.class_embedding", "image_encoder/class_embed", IDENTITY, "W"),
    Row("visual.positional_embedding", "image_encoder/pos_embed", IDENTITY, "N W"),
    Row("visual.proj", "image_encoder/proj", IDENTITY, "W C"),
    Row("visual.conv1.weight", "image_encoder/patch_embed/kernel", CONV, "W 3 p p"),
    *layer_norm("visual.ln_pre", "image_encoder/ln_pre", "W"),
    *blocks("visual.transformer", "image_encoder/blocks", "W"),
    *layer_norm("visual.ln_post", "image_encoder/ln_post", "W"),
    *blocks("transformer", "text_encoder/blocks", "T"),
    Row("token_embedding.weight", "text_encoder/token_embed", IDENTITY, "V T"),
    *layer_norm("ln_final", "text_encoder/ln_final", "T"),
]

# The temperature is a constant in IRRA; the other three describe what the shapes say anyway.
IGNORED = ("logit_scale", "input_resolution", "context_length", "vocab_size")

# Hugging Face CLIPModel -> OpenAI, in order; q, k and v are packed afterwards.
HUGGING_FACE = (
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),  # spelt so over there
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"^text_projection\.weight$", "text_projection"),
)


def from_torch(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """CLIP state dict (OpenAI or Hugging Face names) -> {"image_encoder", "text_encoder"}, float32.

    The positional embedding keeps the checkpoint's square grid.

    Raises:
      ValueError: a ResNet backbone, unknown or missing tensors, shapes that disagree.
    """
    return key_table.to_params(_openai_names(state_dict), TABLE)


def infer_config(state_dict: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes of `models.irra.Config` that a CLIP checkpoint decides.

    Raises:
      ValueError: as `from_torch`.
    """
    return config_sizes(key_table.read_sizes(_openai_names(state_dict), TABLE))


def config_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Letters of `TABLE` -> field names of `models.irra.Config`."""
    return {
        "patch": sizes["p"],
        "vision_width": sizes["W"],
        "vision_depth": sizes["image_encoder"],
        "text_width": sizes["T"],
        "text_depth": sizes["text_encoder"],
        "text_length": sizes["L"],
        "vocab_size": sizes["V"],
        "embed_dim": sizes["C"],
    }


def _openai_names(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    if any(key.startswith("visual.layer1.") for key in state_dict):
        raise ValueError(
            "this CLIP has a ResNet image encoder, which IRRA cannot use (it needs patch tokens); "
            "use ViT-B/32, ViT-B/16 or ViT-L/14"
        )
    if any(key.startswith("vision_model.") for key in state_dict):
        state_dict = _from_hugging_face(state_dict)
    return {key: value for key, value in state_dict.items() if key not in IGNORED}


def _from_hugging_face(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """Renames, packs q/k/v into one projection, and transposes the two final projections."""
    renamed: StateDict = {}
    for key, value in state_dict.items():
        if key.endswith("embeddings.position_ids"):  # a constant that older files carry
            continue
        for pattern, replacement in HUGGING_FACE:
            key = re.sub(pattern, replacement, key)
        # Linear there, a bare [in,out] matrix here.
        renamed[key] = value.T if key in ("visual.proj", "text_projection") else value
    for key in [k for k in renamed if ".self_attn.q_proj." in k]:
        names = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if all(name in renamed for name in names):
            packed = np.concatenate([renamed.pop(name) for name in names])
            kind = key.rsplit(".", 1)[1]
            renamed[key.replace(f"self_attn.q_proj.{kind}", f"attn.in_proj_{kind}")] = packed
    return renamed


def convert(state_dict: StateDict, image_size: tuple[int, int], stride: int | None) -> Converted:
    """CLIP state dict -> (both towers, image positions resized; fields of models.irra.Config).

    The config lacks what CLIP does not decide: losses, heads, number of persons.
    """
    from tipr_jax.nn.pos_embed import patch_grid, resize_pos_embed

    params, config = from_torch(state_dict), infer_config(state_dict)
    stride = stride or config["patch"]
    grid = patch_grid(image_size, config["patch"], stride)
    image_encoder = params["image_encoder"]
    image_encoder["pos_embed"] = np.asarray(resize_pos_embed(image_encoder["pos_embed"], grid))
    return params, config | {"image_size": tuple(image_size), "stride": stride}


CONVERTERS = {
    "openai_clip": Converter(
        method="irra",
        forward=convert,
        help="CLIP with a ViT image encoder: OpenAI's .pt, or CLIPModel .safetensors from Hugging "
        "Face. Gives the two towers; the image positions are resized to --image_size and --stride. "
        "A start for every method with CLIP towers.",
    )
}
