"""The IRRA model against golden arrays: weights, activations, losses."""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity.report import EXACT, Arrays, Report, absolute, loss, read_arrays
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config, objective
from tipr_jax.nn.clip_text import end_token
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import irra
from tipr_jax.train_state import define_model
from tipr_jax.train_step import total_loss

ALL_LOSSES = ("sdm", "mlm", "id", "itc", "cmpm")
# golden name -> ours
TERMS = {
    "sdm_loss": "sdm_loss",
    "id_loss": "id_loss",
    "mlm_loss": "mlm_loss",
    "itc_loss": "itc_loss",
    "cmpm_loss": "cmpm_loss",
    "img_acc": "image_accuracy",
    "txt_acc": "text_accuracy",
    "mlm_acc": "mlm_accuracy",
}


class Loaded(NamedTuple):
    name: str  # of the golden config
    config: Config
    graphdef: nnx.GraphDef
    params: dict
    state_dict: dict[str, np.ndarray]  # official names


def define(config: Config) -> tuple:
    """(graphdef, abstract parameters, init) in float32: what this folder needs of the engine."""
    return define_model(get_method("irra"), config, ComputePolicy())


def load(report: Report, name: str) -> Loaded | None:
    """The converted weights_*.npz; None if a file is absent."""
    sizes = report.json("configs.json")
    if sizes is None or report.arrays(f"weights_{name}.npz") is None:
        return None
    return _load(report.directory / f"weights_{name}.npz", name, json.dumps(sizes[name]))


@functools.cache
def _load(weights: Path, name: str, sizes: str) -> Loaded:
    config, state_dict = model_config(json.loads(sizes)), read_arrays(weights)
    return Loaded(name, config, define(config)[0], irra.from_torch(state_dict), state_dict)


def model_config(sizes: dict) -> Config:
    return Config(
        image_size=tuple(sizes["image"]),
        patch=sizes["patch"],
        stride=sizes["stride"],
        vision_width=sizes["v_width"],
        vision_depth=sizes["v_layers"],
        text_width=sizes["t_width"],
        text_depth=sizes["t_layers"],
        text_length=sizes["ctx"],
        vocab_size=sizes["vocab"],
        embed_dim=sizes["embed"],
        fusion_depth=sizes["cmt_depth"],
        num_persons=sizes["num_classes"],
        # The golden caption_ids are clean: fed as stored.
        mask_caption_ids=False,
    )


def check_weights(report: Report, name: str) -> None:
    """The sizes that the weights imply, and the way there and back."""
    loaded, weights = load(report, name), report.arrays(f"weights_{name}.npz")
    if loaded is None or weights is None:
        return
    config, state_dict = loaded.config, dict(weights)
    inferred = irra.infer_config(state_dict, config.image_size, config.stride)
    wrong = {k: v for k, v in inferred.items() if k != "losses" and getattr(config, k) != v}
    report.exact(f"weights_{name}: sizes inferred from shapes", {"sizes": (wrong, {})})
    back = irra.to_torch(loaded.params)
    report.exact(
        f"weights_{name}: there and back",
        {key: (back.get(key), state_dict.get(key)) for key in sorted(back | state_dict)},
    )


def read_inputs(arrays: Arrays, prefix: str) -> dict[str, jax.Array]:
    """The stored batch as `objective` reads it (NCHW -> NHWC)."""
    stored = arrays.under(prefix)
    names = ("caption_ids", "mlm_ids", "mlm_labels")
    return {key: jnp.asarray(stored[key], jnp.int32) for key in names} | {
        "image": jnp.asarray(stored["images"].transpose(0, 2, 3, 1)),
        "person_id": jnp.asarray(stored["pids"], jnp.int32),
        "image_id": jnp.asarray(stored["image_ids"], jnp.int32),
        "valid": jnp.ones(len(stored["pids"]), bool),
    }


def check_forward(report: Report, name: str) -> None:
    loaded, golden = load(report, name), report.arrays(f"forward_{name}.npz")
    if loaded is None or golden is None:
        return
    _, config, graphdef, params, _ = loaded
    model, inputs = nnx.merge(graphdef, params), read_inputs(golden, "in/")

    features = jax.jit(intermediates)(model, inputs)
    stored = {key: golden[f"out/{key}"] for key in features}
    for key in features:
        one = {key: features[key]}, {key: stored[key]}
        report.compare(f"forward_{name}: {key}", *one, absolute(2e-5), "abs 2e-5")

    evaluate = jax.jit(objective, static_argnums=2)
    terms = evaluate(model, inputs, config)
    every = evaluate(model, inputs, dataclasses.replace(config, losses=ALL_LOSSES))
    ours = {f"ret/{key}": every[term] for key, term in TERMS.items()}
    ours |= {"total_loss": total_loss(terms), "total_loss_all5": total_loss(every)}
    ours["ret/temperature"] = np.float32(config.temperature)
    for prefix in sorted({key.split("/")[1] for key in golden if key.startswith("out/alt_")}):
        alternative = evaluate(model, inputs, alternative_config(config, prefix))
        ours |= {f"{prefix}/{k}": alternative[TERMS[k]] for k in golden.under(f"out/{prefix}/")}
    stored = {k: v for k, v in golden.under("out/").items() if k not in features}
    exact = {key for key in stored if key.endswith(("_acc", "temperature"))}
    for key in stored:
        one = {key: ours[key]} if key in ours else {}, {key: stored[key]}
        limit = (EXACT, "exact") if key in exact else (loss(1e-5), "1e-5 * max(1, |golden|)")
        report.compare(f"forward_{name}: {key}", *one, *limit)


def intermediates(model: nnx.Module, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Every stored activation, computed from the images and ids on."""
    image = model.image_encoder(inputs["image"])
    text = model.text_encoder(inputs["caption_ids"])
    masked = model.text_encoder(inputs["mlm_ids"])
    fused = model.fusion(masked, image)
    pooled_image, pooled_text = image[:, 0], end_token(text, inputs["caption_ids"])
    return {
        "image_feats": image,
        "text_feats": text,
        "mlm_text_feats": masked,
        "i_feats": pooled_image,
        "t_feats": pooled_text,
        "cross_attn_out": model.fusion.attend(masked, image),
        "cross_former_out": fused,
        "mlm_logits": model.mlm_head(fused),
        "image_id_logits": model.classifier(pooled_image),
        "text_id_logits": model.classifier(pooled_text),
    }


def alternative_config(config: Config, name: str) -> Config:
    """ "alt_tau0.07_mlm0.5_id2" -> temperature 0.07, MLM weight 0.5, identity weight 2."""
    fields = {"tau": "temperature", "mlm": "mlm_weight", "id": "id_weight"}
    parts = re.findall(r"_(tau|mlm|id)([\d.]+)", name)
    return dataclasses.replace(config, **{fields[key]: float(value) for key, value in parts})
