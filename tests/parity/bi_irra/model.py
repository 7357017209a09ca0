"""The tiny Bi-IRRA model of the golden data: weights, sizes and the batch."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity.report import Report, read_arrays
from tipr_jax.models import get_method
from tipr_jax.models.bi_irra.config import SIDES, Config
from tipr_jax.models.bi_irra.model import BiIrra, text_mask
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import bi_irra
from tipr_jax.train_state import define_model

SIDE = dict(zip("st", SIDES, strict=True))  # golden suffix -> ours
LOSSES = {"itc": "itc_loss", "itm": "itm_loss", "mlm": "mlm_loss", "mim": "mim_loss"}
# Its true gradient is zero: the softmax does not see it, only rounding does.
KEY_BIAS = ".self.key.bias"
# Second names of tied tensors, and constants.
DERIVED = ("predictions.decoder.weight", "predictions.decoder.bias", "position_ids")
DERIVED += ("relative_position_index",)


class Loaded(NamedTuple):
    config: Config
    state_dict: dict[str, np.ndarray]  # official names
    params: dict  # without the classifier, which nothing trains there
    inputs: dict[str, jax.Array]

    def model(self, **changes: Any) -> BiIrra:
        return nnx.merge(self.graphdef(**changes), self.params)

    def graphdef(self, **changes: Any) -> nnx.GraphDef:
        return define(dataclasses.replace(self.config, **changes))[0]


def define(config: Config) -> tuple:
    """(graphdef, abstract parameters, init) in float32: what this folder needs of the engine."""
    return define_model(get_method("bi_irra"), config, ComputePolicy())


def model_config(sizes: dict) -> Config:
    return Config(
        image_size=(sizes["img"], sizes["img"]),
        patch=sizes["patch"],
        width=sizes["width"],
        vision_depth=sizes["vdepth"],
        vision_heads=sizes["vheads"],
        drop_path=0.0,
        text_depth=sizes["tl"],
        text_heads=sizes["theads"],
        text_ffn=sizes["inter"],
        text_length=sizes["L"],
        vocab_size=sizes["vocab"],
        max_positions=sizes["maxpos"],
        dropout=0.0,
        fusion_depth=sizes["cl"],
        fusion_epsilon=sizes["ln_eps_text"],
        embed_dim=sizes["embed"],
        num_persons=sizes["nclass"],
        temperature=sizes["init_temp"],
        itm_weight=sizes["itm_weight"],
        mim_weight=sizes["mim_weight"],
        itc_feature_grad_scale=1.0,
        mlm_max_masks=sizes["max_masks"],
    )


def load(report: Report) -> Loaded | None:
    """The converted weights and the batch; None if a file is absent."""
    sizes = report.json("config.json")
    files = report.arrays("weights.npz"), report.arrays("inputs.npz")
    if sizes is None or None in files:
        return None
    return _load(report.directory, json.dumps(sizes))


@functools.cache
def _load(directory: Path, sizes: str) -> Loaded:
    state_dict = read_arrays(directory / "weights.npz")
    params = bi_irra.from_torch(state_dict)
    del params["classifier"]
    inputs = read_inputs(read_arrays(directory / "inputs.npz"))
    return Loaded(model_config(json.loads(sizes)), state_dict, params, inputs)


def check_weights(report: Report) -> None:
    """The sizes that the weights imply, the way there and back, and the batch."""
    loaded = load(report)
    if loaded is None:
        return
    config, state_dict = loaded.config, dict(report.arrays("weights.npz") or {})
    inferred = bi_irra.infer_config(state_dict)
    inferred["losses"] = tuple(x for x in inferred["losses"] if x != "id")
    del inferred["text_length"]  # only the number of positions bounds it
    wrong = {k: v for k, v in inferred.items() if getattr(config, k) != v}
    report.exact("weights: sizes inferred from shapes", {"sizes": (wrong, {})})
    back = bi_irra.with_tied_names(bi_irra.to_torch(bi_irra.from_torch(state_dict)))
    wanted = {k: v for k, v in state_dict.items() if not k.endswith(DERIVED[2:])}
    pairs = {key: (back.get(key), wanted.get(key)) for key in sorted(back | wanted)}
    report.exact("weights: there and back", pairs)
    stored = dict(report.arrays("inputs.npz") or {})
    masks = {"s": loaded.inputs["text_ids"], "t": loaded.inputs["target_ids"]}
    pairs = {k: (text_mask(ids), stored[f"text_atts_{k}"] != 0) for k, ids in masks.items()}
    pairs["mask_token_id"] = config.mask_id, stored["mask_token_id"]
    report.exact("inputs: text_atts, mask_token_id", pairs)


def read_inputs(stored: Any) -> dict[str, jax.Array]:
    """The stored batch as `objective` reads it (NCHW -> NHWC)."""
    rows = len(stored["idx"])
    ids = {
        "text_ids": "text_ids_s",
        "target_ids": "text_ids_t",
        "mlm_ids": "text_ids_masked_s",
        "target_mlm_ids": "text_ids_masked_t",
        "mlm_positions": "masked_pos_s",
        "target_mlm_positions": "masked_pos_t",
        "mlm_labels": "masked_ids_s",
        "target_mlm_labels": "masked_ids_t",
        "person_id": "idx",
        "negative_image_source": "image_neg_s",
        "negative_text_source": "text_neg_s",
        "negative_image_target": "image_neg_t",
        "negative_text_target": "text_neg_t",
    }
    inputs = {name: jnp.asarray(stored[key], jnp.int32) for name, key in ids.items()}
    mask = stored["patch_mask"].reshape(1, -1) != 0
    return inputs | {
        "image": jnp.asarray(stored["image"].transpose(0, 2, 3, 1)),
        "patch_mask": jnp.asarray(np.repeat(mask, rows, axis=0)),
        "image_id": jnp.arange(rows),
        "target_language": jnp.ones(rows, jnp.int32),
        "valid": jnp.ones(rows, bool),
        "row_key": jax.random.key_data(jax.random.split(jax.random.key(0), rows)),
    }
