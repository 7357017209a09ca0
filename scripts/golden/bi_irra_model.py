"""The Bi-IRRA model against golden arrays: activations, losses, gradients, a training run."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from golden.report import Report, absolute, relative
from golden.report import loss as activation
from tipr_jax.losses.contrastive import sdm_loss
from tipr_jax.losses.matching import matching_loss, negative_weights, soft_itc_loss
from tipr_jax.models import get_method
from tipr_jax.models.bi_irra import objective as training
from tipr_jax.models.bi_irra.config import SIDES, Config
from tipr_jax.models.bi_irra.model import BiIrra, text_mask
from tipr_jax.nn.beit import relative_position_index
from tipr_jax.nn.xlm_roberta import roberta_positions
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import bi_irra
from tipr_jax.train_state import define_model
from tipr_jax.train_step import total_loss

SIDE = dict(zip("st", SIDES, strict=True))  # golden suffix -> ours
LOSSES = {"itc": "itc_loss", "itm": "itm_loss", "mlm": "mlm_loss", "mim": "mim_loss"}
# Its true gradient is zero: the softmax does not see it, only rounding does.
KEY_BIAS = ".self.key.bias"
# Second names of tied tensors, and constants.
DERIVED = ("predictions.decoder.weight", "predictions.decoder.bias", "position_ids")
DERIVED += ("relative_position_index",)
CLOSE = activation(5e-5), "5e-5 * max(1, |golden|)"


class Loaded(NamedTuple):
    config: Config
    state_dict: dict[str, np.ndarray]  # official names
    params: dict  # without the classifier, which nothing trains there
    inputs: dict[str, jax.Array]

    def model(self, **changes: Any) -> BiIrra:
        return nnx.merge(self.graphdef(**changes), self.params)

    def graphdef(self, **changes: Any) -> nnx.GraphDef:
        config = dataclasses.replace(self.config, **changes)
        return define_model(get_method("bi_irra"), config, ComputePolicy())[0]


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
    """Converts the weights and checks names, sizes and the way back; None if files are absent."""
    sizes, weights = report.json("config.json"), report.arrays("weights.npz")
    stored = report.arrays("inputs.npz")
    if sizes is None or weights is None or stored is None:
        return None
    config = model_config(sizes)
    state_dict = {key: weights[key] for key in weights}
    params = bi_irra.from_torch(state_dict)
    inferred = bi_irra.infer_config(state_dict)
    inferred["losses"] = tuple(x for x in inferred["losses"] if x != "id")
    del inferred["text_length"]  # only the number of positions bounds it
    wrong = {k: v for k, v in inferred.items() if getattr(config, k) != v}
    report.exact("weights: sizes inferred from shapes", {"sizes": (wrong, {})})
    back = bi_irra.with_tied_names(bi_irra.to_torch(params))
    wanted = {k: v for k, v in state_dict.items() if not k.endswith(DERIVED[2:])}
    pairs = {key: (back.get(key), wanted.get(key)) for key in sorted(back | wanted)}
    report.exact("weights: there and back", pairs)
    del params["classifier"]
    inputs = read_inputs(stored)
    masks = {"s": inputs["text_ids"], "t": inputs["target_ids"]}
    pairs = {k: (text_mask(ids), stored[f"text_atts_{k}"] != 0) for k, ids in masks.items()}
    pairs["mask_token_id"] = config.mask_id, stored["mask_token_id"]
    report.exact("inputs: text_atts, mask_token_id", pairs)
    return Loaded(config, state_dict, params, inputs)


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


def check_forward(report: Report, loaded: Loaded) -> None:
    golden = report.arrays("forward.npz")
    if golden is None:
        return
    model, inputs = loaded.model(), loaded.inputs
    ours = dict(jax.jit(activations)(model, inputs))
    ours |= jax.jit(first_block)(model, inputs)
    ours |= jax.jit(attention_maps)(model, inputs)
    roberta = jax.jit(encode_texts)(loaded.model(positions="roberta"), inputs)
    ours |= {f"text_embeds_roberta_{k}": value for k, value in roberta.items()}
    for key, value in ours.items():
        report.compare(f"forward: {key}", {key: value}, {key: golden[key]}, *CLOSE)
    positions = roberta_positions(text_mask(inputs["text_ids"]))
    report.exact(
        "forward: roberta_position_ids_s", {"ids": (positions, golden["roberta_position_ids_s"])}
    )
    check_negative_weights(report, golden, loaded)
    check_rectangle(report, golden, loaded)


def encode_texts(model: BiIrra, inputs: dict) -> dict[str, jax.Array]:
    return {
        "s": model.text_tokens(inputs["text_ids"]),
        "t": model.text_tokens(inputs["target_ids"]),
    }


def activations(model: BiIrra, inputs: dict) -> dict[str, jax.Array]:
    """Every stored activation that the model's own parts give."""
    image, masked = model.image_encoder.clean_and_masked(inputs["image"], inputs["patch_mask"])
    text = encode_texts(model, inputs)
    mask = {"s": text_mask(inputs["text_ids"]), "t": text_mask(inputs["target_ids"])}
    embed = model.text_encoder.embed(inputs["text_ids"])
    teacher = model.fusion(image, text["s"], context_mask=mask["s"])
    student = model.fusion(masked, text["t"], context_mask=mask["t"])
    fused_s = model.fusion(text["s"], image, mask["s"])
    out = {
        "image_embeds": image,
        "image_embeds_mask": masked,
        "text_embeds_s": text["s"],
        "text_embeds_t": text["t"],
        "text_embedding_layer_s": embed,
        "image_feat": training.unit(model.image_feature(image)),
        "image_feat_mask": training.unit(model.image_feature(masked)),
        "text_feat_s": training.unit(model.text_feature(text["s"])),
        "text_feat_t": training.unit(model.text_feature(text["t"], 1)),
        "text_feat_t_shared_proj": training.unit(model.text_feature(text["t"])),
        "cross_text_query_s": fused_s,
        "cross_text_query_t_maskedimg": model.fusion(text["t"], masked, mask["t"]),
        "cross_image_query_teacher": teacher,
        "cross_image_query_student": student,
        "mim_head_student": model.mim_head(student),
        "itm_logits_pos_s": model.match(image, text["s"], mask["s"]),
        "itm_logits_pos_t": model.match(masked, text["t"], mask["t"]),
    }
    for k, prefix in (("s", ""), ("t", "target_")):
        words = model.text_encoder(inputs[f"{prefix}mlm_ids"], mask[k])
        fused = model.fusion(words, image, mask[k])
        out[f"mlm_logits_{k}"] = training.word_logits(
            model, fused, inputs[f"{prefix}mlm_positions"]
        )
    return out


def first_block(model: BiIrra, inputs: dict) -> dict[str, jax.Array]:
    """What goes into the first block of the image tower, its softmax, and what comes out."""
    encoder = model.image_encoder
    block = jax.tree.map(lambda p: p[0], encoder.blocks)
    x = encoder.add_class_token(encoder.patch_embed(inputs["image"]))
    attn, y = block.attn, block.ln_1(x)
    q, k, _ = jnp.einsum("bld,dphk->pblhk", y, attn.qkv[...])
    q = (q + attn.q_bias[...]) * q.shape[-1] ** -0.5
    bias = attn.position_bias[...][relative_position_index(attn.grid)].transpose(2, 0, 1)
    weights = jax.nn.softmax(jnp.einsum("blhk,bmhk->bhlm", q, k) + bias)
    return {
        "vision_patch_tokens": x,
        "vision_block0_attn": weights,
        "vision_block0_out": block(x),
    }


def attention_maps(model: BiIrra, inputs: dict) -> dict[str, jax.Array]:
    image, masked = model.image_encoder.clean_and_masked(inputs["image"], inputs["patch_mask"])
    text = encode_texts(model, inputs)
    out = {}
    for who, x, k, ids in (
        ("teacher", image, "s", "text_ids"),
        ("student", masked, "t", "target_ids"),
    ):
        mask = text_mask(inputs[ids])
        maps = model.fusion.last_attention_weights(x, text[k], None, context_mask=mask)
        out |= {
            f"{who}_last_{kind}_attn": m for kind, m in zip(("self", "cross"), maps, strict=True)
        }
    return out


def check_negative_weights(report: Report, golden, loaded: Loaded) -> None:
    model, inputs = loaded.model(), loaded.inputs
    person, valid = inputs["person_id"], inputs["valid"]
    tokens = jax.jit(lambda m, i: training.encode(m, i, loaded.config))(model, inputs)
    for key in golden:
        if not key.startswith("negweights_"):
            continue
        _, direction, language, ids = key.split("_")
        side = SIDE[language]
        masked = "none" if side == "source" else "image"
        image, text = training.features(model, tokens, inputs, side, masked)
        queries, candidates = (image, text) if direction == "i2t" else (text, image)
        weights = negative_weights(
            queries,
            candidates,
            person if ids == "idx" else jnp.arange(len(person)),
            scale=1 / model.temperature[...],
            valid=valid,
            epsilon=training.NEGATIVE_FLOOR,
        )
        one = {key: weights}, {key: golden[key]}
        report.compare(f"forward: {key}", *one, absolute(5e-5), "abs 5e-5")


def check_rectangle(report: Report, golden, loaded: Loaded) -> None:
    """The same image tower on another grid, with tables of its own."""
    if "rect/image" not in golden:
        return
    image = golden["rect/image"].transpose(0, 2, 3, 1)
    stored = dict(loaded.state_dict)
    for key, value in golden.under("rect/blocks").items():
        stored[f"vision_encoder.blocks{key}"] = value
    params = bi_irra.from_torch(stored)
    del params["classifier"]
    graphdef = loaded.graphdef(image_size=image.shape[1:3])
    ours = jax.jit(lambda p: nnx.merge(graphdef, p).image_encoder(image))(params)
    one = {"image_embeds": ours}, {"image_embeds": golden["rect/image_embeds"]}
    report.compare("forward: rect/image_embeds", *one, absolute(5e-5), "abs 5e-5")


def check_losses(report: Report, loaded: Loaded) -> None:
    golden = report.json("losses_and_grad_norms.json")
    if golden is None:
        return
    ours = dict(
        jax.jit(lambda m, i: single_losses(m, i, loaded.config))(loaded.model(), loaded.inputs)
    )
    ours["id"] = identity_loss(report, loaded)
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
        (fused,) = training.fuse(model, [words], None, config)
        labels = inputs[f"{prefix}mlm_positions"], inputs[f"{prefix}mlm_labels"]
        out[f"mlm_{k}"] = training.masked_words(model, fused, *labels)[0]
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
    fused = training.fuse(model, readings, None, config)
    logits = model.itm_head(jnp.stack([x[:, 0] for x in fused], axis=1))
    return matching_loss(logits, inputs["valid"])[0]


def identity_loss(report: Report, loaded: Loaded) -> jax.Array:
    """The model with the classifier that the other checks leave out."""
    labels = jnp.asarray(report.arrays("forward.npz")["id_labels"], jnp.int32)
    config = dataclasses.replace(loaded.config, losses=(*loaded.config.losses, "id"))
    graphdef = define_model(get_method("bi_irra"), config, ComputePolicy())[0]
    model = nnx.merge(graphdef, bi_irra.from_torch(loaded.state_dict))
    inputs = loaded.inputs | {"person_id": labels}

    @jax.jit
    def run(model, inputs):
        return training.identity(model, training.encode(model, inputs, config), inputs)

    return run(model, inputs)
