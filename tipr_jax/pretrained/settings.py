"""What the shapes of tensors do not tell of a model: heads and activation, from the file beside it.

Hugging Face keeps it as config.json, open_clip as open_clip_config.json, in the folder of the
weights. The released code of neither paper here writes one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tipr_jax.pretrained.key_table import HEAD_DIM

Settings = Mapping[str, Any]

FILES = ("open_clip_config.json", "config.json")
ACTIVATIONS = ("quick_gelu", "gelu")
# Wider ones have other heads: 80 in ViT-H, 88 in ViT-g, 104 in ViT-G, 72 in SO400M.
WIDEST_WITH_HEAD_DIM = 1024
# For `Converter.options`: what to say where no such file is there.
HEAD_DIM_OPTION = ("64", "72", "80", "88", "104")


class Tower(NamedTuple):
    """What is known of one transformer; None where nothing tells."""

    head_dim: int | None = None
    activation: str | None = None


def read_settings(weights: str | Path) -> Settings:
    """The settings in the folder of the weights, or in the folder given; {} without a known file.

    Raises:
      ValueError: a file of that name that is not JSON.
    """
    weights = Path(weights)
    folder = weights if weights.is_dir() else weights.parent
    for path in (folder / name for name in FILES):
        if path.is_file():
            try:
                settings = json.loads(path.read_text("utf-8-sig"))
            except ValueError as error:
                raise ValueError(f"{path}: not JSON ({error}); fetch it again") from None
            if isinstance(settings, dict):
                return settings
    return {}


def transformer(settings: Settings) -> Tower:
    """Of a model with one transformer, or of one section, by Hugging Face's names.

    Raises:
      ValueError: a width that its heads do not divide.
    """
    width, heads = settings.get("hidden_size"), settings.get("num_attention_heads")
    head_dim = None
    if width and heads:
        head_dim, rest = divmod(width, heads)
        if rest:
            raise ValueError(f"config.json: hidden_size {width} is not divisible by {heads} heads")
    return Tower(head_dim, settings.get("hidden_act"))


def clip_towers(settings: Settings) -> tuple[Tower, Tower]:
    """(image, text) of a CLIP, by Hugging Face's or by open_clip's names."""
    if "model_cfg" in settings:  # open_clip, whose default is the exact GELU
        model = settings["model_cfg"]
        activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
        vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
        heads = text.get("heads", 8)
        return (
            Tower(vision.get("head_width", HEAD_DIM), activation),
            Tower(text.get("width", 512) // heads, activation),
        )
    if "vision_config" not in settings and "text_config" not in settings:
        return Tower(), Tower()
    # What Hugging Face leaves out of the file has the value of OpenAI's ViT-B/32.
    vision = {"hidden_size": 768, "num_attention_heads": 12, "hidden_act": "quick_gelu"}
    text = {"hidden_size": 512, "num_attention_heads": 8, "hidden_act": "quick_gelu"}
    return (
        transformer(vision | (settings.get("vision_config") or {})),
        transformer(text | (settings.get("text_config") or {})),
    )


def known_head_dim(tower: Tower, given: str, width: int) -> int:
    """The size of a head: as given by an option, else as the settings say, else the usual one.

    Raises:
      ValueError: nothing tells, and models of this width differ.
    """
    if given:
        return int(given)
    if tower.head_dim:
        return tower.head_dim
    if width > WIDEST_WITH_HEAD_DIM or width % HEAD_DIM:
        raise ValueError(
            f"nothing tells how many heads a transformer of width {width} has, and the shapes do "
            "not; put the model's config.json beside the weights, or give --head_dim (80 in ViT-H, "
            "88 in ViT-g, 104 in ViT-G)"
        )
    return HEAD_DIM


def check_activation(tower: Tower, expected: str) -> None:
    """Raises ValueError for settings with another activation than the only one of the model."""
    if tower.activation not in (None, expected):
        raise ValueError(
            f"config.json says hidden_act {tower.activation!r}, this model has {expected!r} only"
        )
