"""Bi-IRRA: multilingual person retrieval with two-way reasoning (TPAMI 2025).

A BEiT v2 image tower, an XLM-R text tower for all languages, and a fusion encoder that runs both
ways: text reading the image (matching, masked words, re-ranking) and image reading the text
(cross-lingual distillation of masked images). The first language is the source, the others are
targets. `config` holds sizes and switches, `model` the network, `objective` the training.
"""

import numpy as np

from tipr_jax.batch import ColumnSpec, MaskedPatches, MaskedWords, Translations
from tipr_jax.models.bi_irra import objective
from tipr_jax.models.bi_irra.config import Config
from tipr_jax.models.bi_irra.model import BiIrra
from tipr_jax.models.method import (
    Adopted,
    Method,
    Params,
    with_resized,
    without_other_shapes,
)
from tipr_jax.nn.pos_embed import patch_grid, resize_relative_bias

__all__ = ["METHOD", "BiIrra", "Config"]


def columns(config: Config) -> tuple[ColumnSpec, ...]:
    """Captions in a target language; masked words of both captions and masked patches."""
    words = MaskedWords(
        share=config.mlm_prob,
        max_masks=config.mlm_max_masks,
        span_probability=config.mlm_span_prob,
        span_max=config.mlm_span_max,
        whole_words=False,
    )
    # The rows that share negatives share a mask: the released code draws one on each GPU.
    shared = config.itm_group_size if config.mim_mask_scope == "batch" else 1
    patches = MaskedPatches(config.mim_mask, config.grid, config.mim_ratio, shared)
    text = config.masked("text")
    return (
        Translations(words if text else None),
        *((words,) if text else ()),
        *((patches,) if config.masked("image") else ()),
    )


def adopt(
    loaded: Params, fresh: Params, source: Config, target: Config, as_official: bool
) -> Adopted:
    """How X2-VLM or another run enters this model, see `Method.adopt`.

    The tables of relative positions are resampled between the grids of patches (as BEiT does); one
    projection of all target languages is the start of each of theirs; the token of masked patches,
    which a model without masked images lacks, starts fresh. A classifier of another number of
    identities stays behind.
    """
    del as_official  # the released code resamples, too
    loaded = without_other_shapes(loaded, fresh, "classifier")
    if "image_encoder" in loaded:
        known = fresh["image_encoder"]
        kept = {k: v for k, v in loaded["image_encoder"].items() if k in known or k != "mask_embed"}
        loaded = loaded | {"image_encoder": kept}
    loaded, notes = _with_mask_embed(loaded, fresh)
    if "target_proj" in loaded:
        count = len(fresh["target_proj"]["kernel"])
        if len(loaded["target_proj"]["kernel"]) == 1 < count:
            each = {k: np.repeat(np.asarray(v), count, 0) for k, v in loaded["target_proj"].items()}
            loaded = loaded | {"target_proj": each}
            notes |= {f"target_proj/{k}": f"the one projection, {count} times" for k in each}
    grids = [patch_grid(c.image_size, c.patch, c.patch) for c in (source, target)]
    if grids[0] == grids[1]:
        return Adopted(loaded, notes)
    resize = lambda table: resize_relative_bias(table, grids[1], grids[0])  # noqa: E731
    note = "resized {}x{} -> {}x{}".format(*grids[0], *grids[1])
    table = "image_encoder/blocks/attn/position_bias"
    loaded, resized = with_resized(loaded, note, {table: resize})
    return Adopted(loaded, {**notes, **resized})


def _with_mask_embed(loaded: Params, fresh: Params) -> tuple[Params, dict[str, str]]:
    """`loaded` with a token for masked patches if the new model has one."""
    encoder = loaded.get("image_encoder", {})
    if not encoder or "mask_embed" in encoder or "mask_embed" not in fresh["image_encoder"]:
        return loaded, {}
    encoder = encoder | {"mask_embed": fresh["image_encoder"]["mask_embed"]}
    note = {"image_encoder/mask_embed": "fresh: the source does not have it"}
    return loaded | {"image_encoder": encoder}, note


METHOD = Method(
    config=Config,
    model=BiIrra,
    prepare_inputs=objective.prepare_inputs,
    objective=objective.objective,
    columns=columns,
    tokenizer="xlm_roberta",
    adopt=adopt,
)
