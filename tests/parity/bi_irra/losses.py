"""Every single loss of Bi-IRRA against golden values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity.bi_irra.model import LOSSES, SIDE, Loaded, define, load
from parity.report import Report, relative
from tipr_jax.losses.contrastive import sdm_loss
from tipr_jax.losses.matching import matching_loss, soft_itc_loss
from tipr_jax.models.bi_irra import objective as training
from tipr_jax.models.bi_irra.config import Config
from tipr_jax.models.bi_irra.model import BiIrra
from tipr_jax.nn.bert import token_0
from tipr_jax.pretrained import bi_irra
from tipr_jax.train_step import total_loss


def check_losses(report: Report) -> None:
    loaded, golden = load(report), report.json("losses_and_grad_norms.json")
    forward = report.arrays("forward.npz")
    if loaded is None or golden is None or forward is None:
        return
    ours = dict(
        jax.jit(lambda m, i: single_losses(m, i, loaded.config))(loaded.model(), loaded.inputs)
    )
    ours["id"] = identity_loss(loaded, forward["id_labels"])
    for key, value in golden["losses"].items():
        mine = {key: ours[key]} if key in ours else {}
        report.compare(f"losses: {key}", mine, {key: value}, relative(2e-5), "rel 2e-5")


def single_losses(model: BiIrra, inputs: dict, config: Config) -> dict[str, jax.Array]:
    """Every stored loss but the identity's."""
    tokens = training.encode(model, inputs, config)
    valid, person = inputs["valid"], inputs["person_id"]
    scale = 1 / model.learned_temperature(config)
    out = {}
    for k, side in SIDE.items():
        for name, masked in ((f"itc_{k}", "none"), (f"itc_{k}_maskedimg", "image")):
            pair = training.features(model, tokens, inputs, side, masked)
            for ids, labels in (("idx", person), ("noidx", jnp.arange(len(person)))):
                value = soft_itc_loss(*pair, labels, scale=scale, valid=valid)
                out[f"{name}_{ids}"] = value
        pair = training.features(model, tokens, inputs, side)
        out[f"sdm_{k}"] = sdm_loss(*pair, person, logit_scale=1 / config.sdm_temperature)
        for masked in ("none", "image"):
            out[f"itm_{k}_{masked}"] = match_loss(model, tokens, inputs, config, side, masked)
        prefix = "" if side == "source" else "target_"
        words = training.Reading(
            tokens.text[side, "masked"], tokens.mask[side], tokens.image["clean"]
        )
        (fused,) = training.fuse(model, [words], [inputs[f"{prefix}mlm_positions"]], None, 0.0)
        labels = inputs[f"{prefix}mlm_labels"]
        out[f"mlm_{k}"] = training.masked_words(model, fused, labels)[0]
    renamed = {
        "itm_s": out["itm_s_none"],
        "itm_t": out["itm_t_image"],
        "itm_t_unmasked": out["itm_t_none"],
        "itm_s_masked": out["itm_s_image"],
    }

    def distill(teacher="source", student="target", **changes) -> jax.Array:
        changed = dataclasses.replace(config, **changes)
        return training.distance(model, tokens, inputs, changed, teacher, student)

    distances = {
        "dmim_cos": distill(),
        "dmim_smooth_l1": distill(mim_loss="smooth_l1"),
        "dmim_cls_cos": distill(mim_target="cls"),
        "dmim_attn_kd_scale1": distill(mim_target="attention"),
    } | {f"dmim_teacher_{a}I_student_{b}M": distill(SIDE[a], SIDE[b]) for a in SIDE for b in SIDE}
    terms = training.objective(model, inputs, config)
    returned = {f"model_loss_{k}": terms[name] for k, name in LOSSES.items()}
    return out | renamed | distances | returned | {"total": total_loss(terms)}


def match_loss(model, tokens, inputs, config: Config, side: str, masked: str) -> jax.Array:
    changed = dataclasses.replace(config, **{f"itm_mask_{side}": masked})
    readings = training.match_readings(model, tokens, inputs, changed, side)
    fused = training.fuse(model, readings, [token_0(x.mask) for x in readings], None, 0.0)
    logits = model.itm_head(jnp.concatenate(fused, axis=1))
    return matching_loss(logits, inputs["valid"])[0]


def identity_loss(loaded: Loaded, labels: np.ndarray) -> jax.Array:
    """The model with the classifier that the other checks leave out."""
    config = dataclasses.replace(loaded.config, losses=(*loaded.config.losses, "id"))
    model = nnx.merge(define(config)[0], bi_irra.from_torch(loaded.state_dict))
    inputs = loaded.inputs | {"person_id": jnp.asarray(labels, jnp.int32)}

    @jax.jit
    def run(model, inputs):
        return training.identity(model, training.encode(model, inputs, config), inputs)

    return run(model, inputs)
