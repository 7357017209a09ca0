"""The RDE model against golden arrays: weights, activations, losses."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity.report import EXACT, Arrays, Report, absolute, loss, read_arrays
from tipr_jax.losses.contrastive import l2_normalise
from tipr_jax.models import get_method
from tipr_jax.models.rde import Config, Rde
from tipr_jax.models.rde.division import CLEAN
from tipr_jax.models.rde.model import Embeddings, select_patches, select_words
from tipr_jax.models.rde.objective import objective, score
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import rde
from tipr_jax.train_state import define_model, statistics_of
from tipr_jax.train_step import total_loss

LOSSES = {"TAL": "tal", "TRL": "trl", "InfoNCE": "infonce", "SDM": "sdm"}  # golden name -> ours
ALTERNATIVE = {"tau": 0.03, "margin": 0.25, "temperature": 0.07}  # alt_tau0_03_margin0_25
FEATURE = absolute(2e-5), "abs 2e-5"
VALUE = loss(1e-5), "1e-5 * max(1, |golden|)"


def cases_of(golden: Arrays) -> list[str]:
    """The cases of a file of many; a trimmed copy has some of them."""
    present = {key.split("/")[0] for key in golden if "/" in key}
    return [case for case in map(str, golden["cases"]) if case in present]


class Loaded(NamedTuple):
    name: str  # of the golden config
    config: Config
    graphdef: nnx.GraphDef
    weights: dict  # all variables, running statistics included


def define(config: Config) -> tuple:
    """(graphdef, abstract variables, init) in float32."""
    return define_model(get_method("rde"), config, ComputePolicy())


def load(report: Report, name: str) -> Loaded | None:
    """The converted weights_*.npz; None if a file is absent."""
    sizes = report.json("configs.json")
    if sizes is None or report.arrays(f"weights_{name}.npz") is None:
        return None
    return _load(report.directory / f"weights_{name}.npz", name, json.dumps(sizes[name]))


@functools.cache
def _load(path: Path, name: str, sizes: str) -> Loaded:
    config = model_config(json.loads(sizes))
    return Loaded(name, config, define(config)[0], rde.from_torch(read_arrays(path)))


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
        tse_dim=sizes["tse"],
        select_ratio=sizes["ratio"],
    )


def check_weights(report: Report, name: str) -> None:
    """The sizes that the weights imply, and the way there and back of all that the model reads."""
    loaded, stored = load(report, name), report.arrays(f"weights_{name}.npz")
    if loaded is None or stored is None:
        return
    config, state_dict = loaded.config, dict(stored)
    inferred = rde.infer_config(state_dict, config.image_size, config.stride)
    wrong = {k: v for k, v in inferred.items() if getattr(config, k) != v}
    report.exact(f"weights_{name}: sizes inferred from shapes", {"sizes": (wrong, {})})
    back = rde.to_torch(loaded.weights)
    read = sorted((back.keys() | state_dict.keys()) - rde.UNUSED)
    report.exact(
        f"weights_{name}: there and back", {k: (back.get(k), state_dict.get(k)) for k in read}
    )
    unread = sorted(rde.UNUSED & state_dict.keys())
    shapes = {k: (back[k].shape, state_dict[k].shape) for k in unread}
    report.exact(f"weights_{name}: shapes of what nothing reads", shapes)


def read_inputs(stored: dict) -> dict[str, jax.Array]:
    """A stored batch as `objective` reads it (NCHW -> NHWC)."""
    rows = len(stored["pids"])
    return {
        "image": jnp.asarray(stored["images"].transpose(0, 2, 3, 1)),
        "text_ids": jnp.asarray(stored["caption_ids"], jnp.int32),
        "person_id": jnp.asarray(stored["pids"], jnp.int32),
        CLEAN: jnp.asarray(stored.get("label_hat", np.ones(rows)), jnp.float32),
        "valid": jnp.ones(rows, bool),
    }


def check_forward(report: Report, name: str) -> None:
    loaded, golden = load(report, name), report.arrays(f"forward_{name}.npz")
    if loaded is None or golden is None:
        return
    inputs, out = read_inputs(golden.under("in/")), golden.under("out/")
    model = nnx.merge(loaded.graphdef, loaded.weights)
    found = jax.device_get(jax.jit(intermediates)(model, inputs))
    for key in found.keys() - {"image_topk", "text_topk", "text_count"}:
        report.compare(f"forward_{name}: {key}", {key: found[key]}, {key: out[key]}, *FEATURE)
    compare_choices(report, name, found, out)
    compare_losses(report, loaded, inputs, out)
    compare_batch_statistics(report, loaded, inputs, out)


def intermediates(model: Rde, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Every stored activation, computed from the images and ids on."""
    ids = inputs["text_ids"]
    image, image_attention = model.image_encoder.tokens_and_attention(inputs["image"])
    text, text_attention = model.text_encoder.tokens_and_attention(ids)
    text_places, count = select_words(text_attention, ids, model.selected_words)
    of_image, of_text = model.embed_image(inputs["image"]), model.embed_text(ids)
    scores = {name: scores_of(getattr(of_text, name), getattr(of_image, name))
              for name in Embeddings._fields}  # fmt: skip
    return {
        "image_feats": image,
        "text_feats": text,
        "image_attn_cls": image_attention,
        "text_attn_eot": text_attention,
        "image_topk": select_patches(image_attention, model.selected_patches),
        "text_topk": text_places,
        "text_count": count,
        "i_feats": of_image.bge,
        "t_feats": of_text.bge,
        "i_tse": of_image.tse,
        "t_tse": of_text.tse,
        **{f"scores_{name}": value for name, value in scores.items()},
        **{f"sims_{name}": jnp.diagonal(value) for name, value in scores.items()},
    }


def scores_of(text: jax.Array, image: jax.Array) -> jax.Array:
    return l2_normalise(text) @ l2_normalise(image).T


def compare_choices(report: Report, name: str, found: dict, out: dict) -> None:
    """Selected tokens as sets: of a text those that are compared, not the padding behind them."""
    sets = lambda rows: [set(map(int, row)) for row in rows]  # noqa: E731
    cut = lambda rows: [row[:n] for row, n in zip(rows, out["text_count"], strict=True)]  # noqa: E731
    pairs = {
        "image_topk": (sets(found["image_topk"]), sets(out["image_topk"])),
        "text_topk": (sets(cut(found["text_topk"])), sets(cut(out["text_topk"]))),
        "text_count": (found["text_count"], out["text_count"]),
    }
    report.exact(f"forward_{name}: selected tokens", pairs)


def compare_losses(report: Report, loaded: Loaded, inputs: dict, out: dict) -> None:
    model = nnx.merge(loaded.graphdef, loaded.weights)
    evaluate, losses = (jax.jit(f, static_argnums=2) for f in (objective, score))
    for golden_name, name in LOSSES.items():
        config = dataclasses.replace(loaded.config, losses=(name,))
        terms = evaluate(model, inputs, config)
        changed = evaluate(model, inputs, dataclasses.replace(config, **ALTERNATIVE))
        branches = [f"{branch}_loss" for branch in Embeddings._fields]
        ours = {f"per_loss/{golden_name}/{k}": v for k, v in losses(model, inputs, config).items()}
        ours |= {f"ret/{golden_name}/{key}": terms[key] for key in branches}
        ours[f"ret/{golden_name}/total_loss"] = total_loss(terms)
        ours |= {f"alt_tau0_03_margin0_25/{golden_name}/{key}": changed[key] for key in branches}
        title = f"forward_{loaded.name}: {golden_name}"
        report.compare(title, ours, {key: out[key] for key in ours}, *VALUE)
        key = f"ret/{golden_name}/temperature"
        constant = {key: np.float32(config.temperature)}, {key: out[key]}
        report.compare(f"{title} temperature", *constant, EXACT, "exact")


def compare_batch_statistics(report: Report, loaded: Loaded, inputs: dict, out: dict) -> None:
    """One forward pass with the statistics of the batch, and the running statistics after it."""
    config = dataclasses.replace(loaded.config, batch_norm="batch")

    @jax.jit
    def run(weights: dict) -> tuple:
        model = nnx.merge(loaded.graphdef, weights)
        terms = objective(model, inputs, config)
        after = statistics_of(model)
        model = nnx.merge(loaded.graphdef, weights)
        rows = inputs["valid"]
        features = (
            model.embed_image(inputs["image"], rows),
            model.embed_text(inputs["text_ids"], rows),
        )
        return terms, after, features

    terms, after, (image, text) = jax.device_get(run(loaded.weights))
    title = f"forward_{loaded.name}: train_bn"
    features = {"i_tse": image.tse, "t_tse": text.tse}
    report.compare(
        f"{title} features", features, {k: out[f"train_bn/{k}"] for k in features}, *FEATURE
    )
    stored = {k.removeprefix("train_bn/buffer/"): v for k, v in out.items() if "/buffer/" in k}
    report.compare(f"{title} statistics", official_statistics(after), stored, absolute(2e-6),
                   "abs 2e-6")  # fmt: skip
    ours = {key: terms[key] for key in ("bge_loss", "tse_loss")}
    report.compare(f"{title} losses", ours, {k: out[f"train_bn/ret/TAL/{k}"] for k in ours}, *VALUE)


def official_statistics(statistics: dict) -> dict[str, np.ndarray]:
    """Running means and variances under their official names."""
    return {
        f"{key}.mlp.bns.0.running_{name}": np.asarray(statistics[path]["hidden_norm"][name])
        for key, (path, _) in rde.SELECTIONS.items()
        for name in ("mean", "var")
    }
