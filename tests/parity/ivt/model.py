"""The IVT model against golden arrays: weights, names, activations."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity.report import Report, absolute, read_arrays, shape_of
from tipr_jax.losses.contrastive import l2_normalise
from tipr_jax.models import get_method
from tipr_jax.models.ivt import Config, Ivt, text_mask
from tipr_jax.nn.pos_embed import patch_grid
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import ivt
from tipr_jax.train_state import define_model

LEVELS = 3  # the golden batch is [word; phrase; sentence], each of the same pairs


class Loaded(NamedTuple):
    config: Config
    graphdef: nnx.GraphDef
    params: dict
    state_dict: dict[str, np.ndarray]  # official names
    head_dim: int


def define(config: Config) -> tuple:
    """(graphdef, abstract parameters, init) in float32: what this folder needs of the engine."""
    return define_model(get_method("ivt"), config, ComputePolicy())


def load(report: Report) -> Loaded | None:
    """The converted weights.npz; None if a file is absent."""
    sizes, weights = report.json("config.json"), report.arrays("weights.npz")
    if sizes is None or weights is None:
        return None
    return _load(report.directory / "weights.npz", json.dumps(sizes))


@functools.cache
def _load(weights: Path, sizes: str) -> Loaded:
    config, state_dict = model_config(json.loads(sizes)), read_arrays(weights)
    head_dim = config.width // config.heads
    params = ivt.from_torch(state_dict, head_dim)
    return Loaded(config, define(config)[0], params, state_dict, head_dim)


def model_config(sizes: dict) -> Config:
    return Config(
        image_size=tuple(sizes["image"]),
        patch=sizes["patch"],
        stride=sizes["stride"],
        width=sizes["width"],
        depth=sizes["depth"],
        heads=sizes["heads"],
        text_length=sizes["text_length"],
        vocab_size=sizes["vocab"],
        max_positions=sizes["text_positions"],
        drop_path=0.0,
        dropout=0.0,
    )


def check_weights(report: Report) -> None:
    """The sizes that the weights imply, and the way there and back."""
    loaded, sizes = load(report), report.json("config.json")
    if loaded is None or sizes is None:
        return
    config, state_dict = loaded.config, dict(report.arrays("weights.npz") or {})
    inferred = ivt.infer_config(state_dict, config.image_size, config.stride, loaded.head_dim)
    inferred.pop("text_length", None)  # not decided by the weights
    wrong = {k: v for k, v in inferred.items() if getattr(config, k) != v}
    grid = {
        "grid": (
            patch_grid(inferred["image_size"], inferred["patch"], inferred["stride"]),
            tuple(sizes["grid"]),
        )
    }
    report.exact("weights: sizes inferred from shapes", {"sizes": (wrong, {})} | grid)
    back = ivt.to_torch(loaded.params)
    report.exact(
        "weights: there and back",
        {k: (back.get(k), v) for k, v in state_dict.items() if not is_inert(k)},
    )


def is_inert(key: str) -> bool:
    """Tensors of a fine-tuned file that the released model holds and never reads."""
    return key == "temp" or bool(ivt.INERT.search(key))


def check_state_dict_manifest(report: Report) -> None:
    loaded, manifest = load(report), report.json("state_dict_manifest.json")
    if loaded is None or manifest is None:
        return
    ours = ivt.to_torch(loaded.params)
    pairs = {
        key: (ours[key].shape if key in ours else None, tuple(shape))
        for key, (shape, trained) in manifest.items()
        if trained is not None and not is_inert(key)
    }
    report.exact("state_dict_manifest: names and shapes", pairs)
    names = {"names": (sorted(ours), sorted(pairs))}
    report.exact("state_dict_manifest: nothing else is trained", names)


def batch_of(report: Report) -> dict[str, np.ndarray] | None:
    """inputs.npz by pairs: image [B,S,H,W,3], text_ids and text_mask [B,S,L], person_id [B]."""
    golden = report.arrays("inputs.npz")
    if golden is None:
        return None
    levels = {
        "image": golden["images"].transpose(0, 2, 3, 1),
        "text_ids": golden["input_ids"].astype(np.int32),
        "text_mask": golden["attention_mask"] != 0,
    }
    return {k: by_pair(v) for k, v in levels.items()} | {"person_id": golden["pid"]}


def by_pair(x: np.ndarray) -> np.ndarray:
    """[S*B,...], level after level as stored -> [B,S,...]."""
    return x.reshape(LEVELS, -1, *x.shape[1:]).swapaxes(0, 1)


def by_level(x: jax.Array) -> jax.Array:
    """The inverse of `by_pair`."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def check_eval_features(report: Report) -> None:
    loaded, batch = load(report), batch_of(report)
    golden, stored = report.arrays("eval_features.npz"), report.arrays("inputs.npz")
    if loaded is None or golden is None or batch is None:
        return
    mask = {"mask": (text_mask(by_level(batch["text_ids"])), by_level(batch["text_mask"]))}
    report.exact("inputs: text mask", mask)
    report.exact("inputs: labels", {"pid3": (np.tile(stored["pid"], LEVELS), stored["pid3"])})
    model = nnx.merge(loaded.graphdef, loaded.params)
    image, text_ids = by_level(batch["image"]), by_level(batch["text_ids"])
    ours = jax.jit(activations)(model, image, text_ids)
    for key in golden:
        want = golden[key]
        limit = 2e-6 if key == "txt_text_embed" else 5e-6  # there an LN eps of 1e-6 shows
        pair = {key: ours[key][: shape_of(want)[0]]} if key in ours else {}
        report.compare(f"eval_features: {key}", pair, {key: want}, absolute(limit), f"abs {limit}")


def activations(model: Ivt, image: jax.Array, text_ids: jax.Array) -> dict[str, jax.Array]:
    """Every stored activation, of all rows."""
    trunk, mask = model.encoder, text_mask(text_ids)
    out = {
        "vis_patch_embed": trunk.patch_embed(image),
        "txt_text_embed": trunk.text_embed(text_ids),
    }
    streams = (
        ("vis", trunk.embed_image(image), trunk.mlp_image, None),
        ("txt", out["txt_text_embed"], trunk.mlp_text, mask),
    )
    for name, x, mlps, key_mask in streams:
        for i in range(len(mlps.fc_in.bias)):
            block, mlp = jax.tree.map(lambda p, i=i: p[i], (trunk.blocks, mlps))
            out[f"{name}_blk{i}_attn"] = block.attn(block.ln_1(x), key_mask=key_mask)
            x = out[f"{name}_blk{i}_out"] = block(x, mlp, key_mask, None)
    for name, tokens in (
        ("vis", trunk.image_tokens(image)),
        ("txt", trunk.text_tokens(text_ids, key_mask=mask)),
    ):
        feature = tokens[:, 0]
        out |= {
            f"tokens_{name}": tokens,
            f"out_{name}": feature,
            f"norm_{name}": l2_normalise(feature),
        }
    return out
