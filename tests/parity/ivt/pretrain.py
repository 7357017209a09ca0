"""IVT's pre-training against golden arrays: weights, losses, logits, gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity.ivt.model import Loaded, define, load
from parity.ivt.training import compare_loss, norm
from parity.report import Arrays, Report, absolute, relative
from tipr_jax.losses.matching import negative_weights, soft_itc_loss
from tipr_jax.models import ivt as method
from tipr_jax.models.ivt import Config, Ivt, text_mask
from tipr_jax.pretrained import ivt

WORD_TABLE = "encoder_fusion.bert.embeddings.word_embeddings.weight"  # shared with the decoder
DECODER = "encoder_fusion.cls.predictions.decoder.weight"


def check_pretrain(report: Report) -> None:
    loaded = load(report)
    weights, golden = report.arrays("pretrain_weights.npz"), report.arrays("pretrain.npz")
    if loaded is None or weights is None:
        return
    config, params = check_weights(report, loaded, {key: weights[key] for key in weights})
    if golden is None:
        return
    graphdef = define(config)[0]
    inputs, negatives = pretrain_inputs(golden), recorded_negatives(golden)

    def loss(params: Any) -> tuple[jax.Array, dict]:
        out = quantities(nnx.merge(graphdef, params), inputs, negatives, config)
        return out["loss_total"], out

    (_, ours), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    for key in ("loss_itc", "loss_itm", "loss_mlm", "loss_total"):
        compare_loss(report, f"pretrain: {key}", ours[key], golden[key])
    limits = {"out_vis": 5e-6, "out_txt": 5e-6, "cross_tokens": 2e-5, "itm_logits_pos": 2e-5}
    limits |= {"mlm_logits": 2e-5}
    for key, limit in limits.items():
        pair = {key: ours[key]}, {key: golden[key]}
        report.compare(f"pretrain: {key}", *pair, absolute(limit), f"abs {limit:g}")
    check_itc(report, golden)
    check_negative_weights(report, golden)
    check_gradients(report, ivt.to_torch(grads))


def check_weights(report: Report, loaded: Loaded, heads: dict) -> tuple[Config, dict]:
    """Converts trunk and heads together; there and back, and the manifest."""
    temperature = float(heads["temp"])
    state_dict = loaded.state_dict | heads
    params = ivt.from_torch(state_dict, loaded.head_dim)
    sizes = loaded.config.image_size, loaded.config.stride
    inferred = ivt.infer_config(state_dict, *sizes, loaded.head_dim)
    back = ivt.to_torch(params)
    kept = {key: value for key, value in state_dict.items() if not ivt.INERT.search(key)}
    pairs = {key: (back.get(key), kept.get(key)) for key in back | kept}
    report.exact("pretrain_weights: there and back", pairs)
    if manifest := report.json("pretrain_state_dict_manifest.json"):
        stored = {k: tuple(shape) for k, shape in manifest.items() if not ivt.INERT.search(k)}
        shapes = {key: np.shape(value) for key, value in back.items()}
        pairs = {key: (shapes.get(key), stored.get(key)) for key in shapes | stored}
        report.exact("pretrain_state_dict_manifest: names and shapes", pairs)
        tied = {"word table": (tuple(manifest[WORD_TABLE]), shapes[DECODER])}
        report.exact("pretrain_state_dict_manifest: tied decoder", tied)
    fields = {k: v for k, v in inferred.items() if k not in ("image_size", "stride", "text_length")}
    return dataclasses.replace(loaded.config, **fields, temperature=temperature), params


def pretrain_inputs(golden: Arrays) -> dict[str, jax.Array]:
    """What `objective` reads: one text and one view per pair."""
    text_ids = jnp.asarray(golden["input_ids"], jnp.int32)
    rows = len(text_ids)
    return {
        "image": jnp.asarray(golden["images"].transpose(0, 2, 3, 1))[:, None],
        "text_ids": text_ids[:, None],
        "text_mask": jnp.asarray(golden["attention_mask"] != 0)[:, None],
        "row_key": jax.random.key_data(jax.random.split(jax.random.key(0), (rows, 1))),
        "mlm_ids": jnp.asarray(golden["input_ids_masked"], jnp.int32),
        "mlm_positions": jnp.asarray(golden["masked_pos"], jnp.int32),
        "mlm_labels": jnp.asarray(golden["masked_ids"], jnp.int32),
        "person_id": jnp.asarray(golden["idx"], jnp.int32),
        "valid": jnp.ones(rows, bool),
    }


def recorded_negatives(golden: Arrays) -> tuple[jax.Array, jax.Array]:
    names = "neg_image_for_text", "neg_text_for_image"
    return tuple(jnp.asarray(golden[name], jnp.int32) for name in names)


def quantities(model: Ivt, inputs: dict, negatives: tuple, config: Config) -> dict[str, jax.Array]:
    """Every stored quantity, through the functions that `objective` is made of."""
    pooled, tokens = method.forward(model, inputs, config)
    image, text = pooled["image"][:, 0], pooled["text"][:, 0]
    total = method.totals(inputs, config)
    terms = method.batch_terms(model, pooled, inputs, config)
    terms |= method.itm_terms(model, tokens, *negatives, inputs, config)
    terms |= method.mlm_terms(model, tokens["image"], inputs, config, total)
    losses = {f"loss_{name}": terms[f"{name}_loss"] for name in ("itc", "itm", "mlm")}
    fused = model.fusion(tokens["text"], tokens["image"], inputs["text_mask"][:, 0])
    return losses | {
        "loss_total": sum(losses.values()),
        "out_vis": image,
        "out_txt": text,
        "cross_tokens": fused,
        "itm_logits_pos": model.itm_head(fused[:, 0]),
        "mlm_logits": method.mlm_logits(model, tokens["image"], inputs, config),
    }


def check_itc(report: Report, golden: Arrays) -> None:
    """The contrast alone, with repeated ids and without ids."""
    image, text = jnp.asarray(golden["itc_feat_img"]), jnp.asarray(golden["itc_feat_txt"])
    repeated, valid = jnp.asarray(golden["itc_ids"]), jnp.ones(len(image), bool)
    scale = 1 / float(golden["temp"])
    for key, ids in (("itc_loss_repeat", repeated), ("itc_loss_noid", jnp.arange(len(image)))):
        ours = soft_itc_loss(image, text, ids, scale=scale, valid=valid)
        compare_loss(report, f"pretrain: {key}", ours, golden[key])
    mask = {"mask": (text_mask(golden["input_ids"]), golden["attention_mask"] != 0)}
    report.exact("pretrain: text mask", mask)


def check_negative_weights(report: Report, golden: Arrays) -> None:
    """From the stored features: their own rounding would show in weights of a sharp softmax."""
    image, text = jnp.asarray(golden["out_vis"]), jnp.asarray(golden["out_txt"])
    options = dict(scale=1 / float(golden["temp"]), valid=jnp.ones(len(image), bool))
    for key, pair in (("weights_t2i", (text, image)), ("weights_i2t", (image, text))):
        ours = {key: negative_weights(*pair, jnp.arange(len(image)), **options)}
        report.compare(f"pretrain: {key}", ours, {key: golden[key]}, absolute(5e-6), "abs 5e-6")


def check_gradients(report: Report, grads: dict[str, np.ndarray]) -> None:
    golden = report.json("pretrain_grad_norms.json")
    if golden is None:
        return
    grads[WORD_TABLE] = grads.pop(DECODER)
    # A key bias shifts all logits of a softmax: its gradient is rounding noise around 0.
    noise = [key for key in golden if key.endswith("self.key.bias")]
    small = {key: norm(grads[key]) for key in noise}
    zero = dict.fromkeys(noise, 0.0)
    report.compare("pretrain_grad_norms: key biases", small, zero, absolute(1e-6), "abs 1e-6")
    trained = {k: v for k, v in golden.items() if v >= 0 and k not in noise}
    norms = {key: norm(value) for key, value in grads.items() if key not in noise}
    report.compare("pretrain_grad_norms", norms, trained, relative(1e-4), "rel 1e-4")
    none = {key: (key in grads, False) for key, value in golden.items() if value < 0}
    report.exact("pretrain_grad_norms: tensors without gradient", none)
