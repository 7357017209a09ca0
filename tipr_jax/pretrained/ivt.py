"""The released IVT checkpoint, both directions, and its use as a start (spec ivt §2.4, §2.7).

A fine-tuned file holds the trunk (`encoder_vl.*`) and tensors that nothing reads; a pre-training
file the trunk, the fusion encoder and its heads.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tipr_jax.pretrained import bert, key_table, timm_vit
from tipr_jax.pretrained.key_table import (
    HEAD_DIM,
    IDENTITY,
    LEADING_ONE,
    Row,
    StateDict,
    flatten,
    linear,
    unflatten,
)

FUSION = "encoder_fusion.bert."
HEAD = "encoder_fusion.cls.predictions."

# Inert in the released model: never read in a forward pass, or constants, or second names of a
# shared tensor. The released loader copies what it finds, so files without them load there too.
INERT = re.compile(
    r"^classifier_img\.|^bottleneck_img\.|\.position_ids$"
    r"|^encoder_fusion\.bert\.embeddings\.|\.predictions\.decoder\.bias$"
)
WORD_TABLE = f"{FUSION}embeddings.word_embeddings.weight"  # the same tensor as the decoder's weight

PREFIX = "module."  # of every key, if trained with DistributedDataParallel
POSITION_TABLES = ("encoder/pos_embed", "encoder/type_embed")


def table(head_dim: int = HEAD_DIM) -> list[Row]:
    """Letters: W width, N 1 + patches, p patch, V vocabulary, T text positions, F fusion hidden."""
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
    state_dict = _used(state_dict)
    sizes = key_table.read_sizes(state_dict, _present(state_dict, head_dim))
    config = {
        "image_size": tuple(image_size),
        "patch": sizes["p"],
        "stride": stride or sizes["p"],
        "width": sizes["W"],
        "depth": sizes["encoder"],
        "heads": sizes["W"] // head_dim,
    } | bert.text_sizes(sizes)
    rows, cols = grid_of(config)
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


def grid_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of patches, from the fields image_size, patch and stride."""
    rows, cols = ((n - config["patch"]) // config["stride"] + 1 for n in config["image_size"])
    return rows, cols


class HandOver(NamedTuple):
    """Where each parameter of the new model comes from: {path: what happened}."""

    params: dict[str, Any]
    log: dict[str, str]


def hand_over(
    loaded: Mapping[str, Any],
    fresh: Mapping[str, Any],
    *,
    source_grid: tuple[int, int],
    target_grid: tuple[int, int],
    as_official: bool = False,
) -> HandOver:
    """`fresh` parameters with the values of `loaded` in their places.

    The two positional tables of the image are resized where the grids of patches differ. With
    `as_official` they then keep their fresh values, as released: there, fine-tuning at stride 12
    silently loses the tables that pre-training at stride 16 has learned.

    Args:
      loaded: parameters of a pre-trained model, or a part of one (converted BERT or ViT weights).
      fresh: parameters of the new model, numpy or jax arrays.
      source_grid, target_grid: (rows, columns) of patches, see `grid_of`.
      as_official: do not resize.

    Returns:
      params: numpy arrays where something was taken, else the entries of `fresh`.
      log: every path of both trees -> "taken", "resized 24x8 -> 31x10", "fresh" (with the reason)
        or "unused" (the new model has no such head).

    Raises:
      ValueError: any other tensor whose shape differs; lists them.
    """
    given, wanted = flatten(loaded), flatten(fresh)
    params, log, wrong = dict(wanted), {}, []
    grids = "{}x{} -> {}x{}".format(*source_grid, *target_grid)
    for path in sorted(given | wanted):
        if path not in wanted:
            log[path] = "unused"
        elif path not in given:
            log[path] = "fresh"
        elif path in POSITION_TABLES and tuple(source_grid) != tuple(target_grid):
            if as_official:
                log[path] = f"fresh (as_official: not resized {grids})"
            else:
                params[path] = _resized(path, given[path], source_grid, target_grid)
                log[path] = f"resized {grids}"
        elif np.shape(given[path]) != np.shape(wanted[path]):
            shapes = list(np.shape(given[path])), list(np.shape(wanted[path]))
            wrong.append("{}: {} given, {} expected".format(path, *shapes))
        else:
            params[path], log[path] = np.asarray(given[path]), "taken"
    if wrong:
        raise ValueError(
            f"{len(wrong)} parameters do not fit the model ({'; '.join(wrong[:3])}); "
            "set config.model and config.data.image_size to the sizes of the pre-trained one"
        )
    return HandOver(unflatten(params), log)


def _resized(path: str, table: Any, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    from tipr_jax.nn.pos_embed import resize_pos_embed

    try:
        return np.asarray(resize_pos_embed(np.asarray(table), target, source))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _used(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """Without "module." and inert tensors, projections packed."""
    if all(key.startswith(PREFIX) for key in state_dict):
        state_dict = {key.removeprefix(PREFIX): value for key, value in state_dict.items()}
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
