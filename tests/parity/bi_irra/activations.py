"""Bi-IRRA's activations, attention maps and weights of hard negatives against golden arrays."""

import jax
import jax.numpy as jnp
from flax import nnx

from parity.bi_irra.model import SIDE, Loaded, load
from parity.report import Arrays, Report, absolute
from parity.report import loss as activation
from tipr_jax.losses.matching import negative_weights
from tipr_jax.models.bi_irra import objective as training
from tipr_jax.models.bi_irra.model import BiIrra, text_mask
from tipr_jax.nn.beit import relative_position_index
from tipr_jax.nn.xlm_roberta import roberta_positions
from tipr_jax.pretrained import bi_irra

CLOSE = activation(5e-5), "5e-5 * max(1, |golden|)"


def check_forward(report: Report) -> None:
    loaded, golden = load(report), report.arrays("forward.npz")
    if loaded is None or golden is None:
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
        fused = model.fusion(words, image, mask[k], at=inputs[f"{prefix}mlm_positions"])
        out[f"mlm_logits_{k}"] = training.word_logits(model, fused)
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


def check_negative_weights(report: Report, golden: Arrays, loaded: Loaded) -> None:
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


def check_rectangle(report: Report, golden: Arrays, loaded: Loaded) -> None:
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
