"""CLIP checkpoints: OpenAI's names, which open_clip has too, and Hugging Face's turned into them.

A CLIP checkpoint holds the two towers only; IRRA's fusion encoder and heads start from their
initialisers.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tipr_jax.pretrained import key_table
from tipr_jax.pretrained import settings as settings_of
from tipr_jax.pretrained.converter import Converted, Converter
from tipr_jax.pretrained.key_table import (
    CONV,
    HEAD_DIM,
    IDENTITY,
    Row,
    StateDict,
    blocks,
    layer_norm,
)
from tipr_jax.pretrained.settings import (
    ACTIVATIONS,
    HEAD_DIM_OPTION,
    Settings,
    Tower,
    clip_towers,
)

log = logging.getLogger("tipr_jax")


def table(head_dims: tuple[int, int] = (HEAD_DIM, HEAD_DIM)) -> list[Row]:
    """head_dims: of the image tower and of the text tower.

    Letters: W vision width, X its hidden width, T text width, Y its hidden width, C shared
    embedding, p patch, N 1 + patches, L text length, V vocabulary.
    """
    vision, text = head_dims
    return [
        Row("positional_embedding", "text_encoder/pos_embed", IDENTITY, "L T"),
        Row("text_projection", "text_encoder/proj", IDENTITY, "T C"),
        Row("visual.class_embedding", "image_encoder/class_embed", IDENTITY, "W"),
        Row("visual.positional_embedding", "image_encoder/pos_embed", IDENTITY, "N W"),
        Row("visual.proj", "image_encoder/proj", IDENTITY, "W C"),
        Row("visual.conv1.weight", "image_encoder/patch_embed/kernel", CONV, "W 3 p p"),
        *layer_norm("visual.ln_pre", "image_encoder/ln_pre", "W"),
        *blocks("visual.transformer", "image_encoder/blocks", "W", "X", vision),
        *layer_norm("visual.ln_post", "image_encoder/ln_post", "W"),
        *blocks("transformer", "text_encoder/blocks", "T", "Y", text),
        Row("token_embedding.weight", "text_encoder/token_embed", IDENTITY, "V T"),
        *layer_norm("ln_final", "text_encoder/ln_final", "T"),
    ]


# In OpenAI's own archives, and in no other: they describe what the shapes say anyway.
OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")
# The temperature is a constant in IRRA; open_clip may keep the causal mask.
IGNORED = ("logit_scale", "attn_mask", *OPENAI_ONLY)

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


def from_torch(
    state_dict: Mapping[str, np.ndarray], head_dims: tuple[int, int] = (HEAD_DIM, HEAD_DIM)
) -> dict[str, Any]:
    """CLIP state dict (OpenAI or Hugging Face names) -> {"image_encoder", "text_encoder"}, float32.

    The positional embedding keeps the checkpoint's square grid.

    Raises:
      ValueError: a ResNet backbone, unknown or missing tensors, shapes that disagree.
    """
    return key_table.to_params(_openai_names(state_dict), table(head_dims))


def infer_config(state_dict: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes of `models.irra.Config` that a CLIP checkpoint decides.

    Raises:
      ValueError: as `from_torch`.
    """
    return config_sizes(key_table.read_sizes(_openai_names(state_dict), table()))


def config_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Letters of `table` -> field names of `models.irra.Config`."""
    return {
        "patch": sizes["p"],
        "vision_width": sizes["W"],
        "vision_depth": sizes["image_encoder"],
        "text_width": sizes["T"],
        "text_depth": sizes["text_encoder"],
        "text_length": sizes["L"],
        "vocab_size": sizes["V"],
        "embed_dim": sizes["C"],
        "vision_hidden": key_table.hidden_width(sizes, "X", "W"),
        "text_hidden": key_table.hidden_width(sizes, "Y", "T"),
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


def convert(
    state_dict: StateDict,
    image_size: tuple[int, int],
    stride: int | None,
    *,
    settings: Sequence[Settings] = ({},),
    head_dim: str = "",
    activation: str = "",
) -> Converted:
    """CLIP state dict -> (both towers, image positions resized; fields of models.irra.Config).

    The config lacks what CLIP does not decide: losses, heads, number of persons.

    Args:
      settings: what stands beside the weights, see `settings.read_settings`.
      head_dim, activation: of the towers, where nothing stands there ("": as in OpenAI's CLIP).

    Raises:
      ValueError: as `from_torch`; a size of the heads or an activation that cannot be known.
    """
    from tipr_jax.nn.pos_embed import patch_grid, resize_pos_embed

    config = infer_config(state_dict)
    towers = clip_towers(settings[0])
    vision = settings_of.known_head_dim(towers[0], head_dim, config["vision_width"])
    # The text towers of all sizes have heads of 64; the option is about the image tower.
    text = towers[1].head_dim or HEAD_DIM
    shapeless = {
        "vision_head_dim": vision,
        "text_head_dim": text,
        "activation": activation or _activation(state_dict, towers),
    }
    params = from_torch(state_dict, (vision, text))
    stride = stride or config["patch"]
    grid = patch_grid(image_size, config["patch"], stride)
    image_encoder = params["image_encoder"]
    image_encoder["pos_embed"] = np.asarray(resize_pos_embed(image_encoder["pos_embed"], grid))
    return params, config | shapeless | {"image_size": tuple(image_size), "stride": stride}


def _activation(state_dict: Mapping[str, np.ndarray], towers: tuple[Tower, Tower]) -> str:
    """The activation of both towers; says so where it is assumed."""
    found = {tower.activation for tower in towers if tower.activation}
    if len(found) > 1 or not found <= set(ACTIVATIONS):
        raise ValueError(
            f"config.json says hidden_act {' and '.join(sorted(found))}, the towers here have one "
            f"of {', '.join(ACTIVATIONS)} in common"
        )
    if not found and not any(name in state_dict for name in OPENAI_ONLY):
        log.warning(
            "no config.json beside the weights: taken for OpenAI's CLIP, with QuickGELU and heads "
            "of 64; LAION's and DataComp's have --activation=gelu"
        )
    return found.pop() if found else "quick_gelu"


CONVERTERS = {
    "openai_clip": Converter(
        method="irra",
        forward=convert,
        help="CLIP with a ViT image encoder: OpenAI's .pt, open_clip's, or CLIPModel .safetensors "
        "from Hugging Face, or the folder of one, whose config.json tells heads and activation. "
        "Gives the two towers; the image positions are resized to --image_size and --stride. "
        "A start for every method with CLIP towers.",
        options={"head_dim": HEAD_DIM_OPTION, "activation": ACTIVATIONS},
        reads_settings=True,
    )
}
