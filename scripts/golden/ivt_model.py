"""The IVT model against golden arrays: features, token removal, DropPath, gradients, training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from configs.ivt import get_config
from golden.report import Report, absolute, of_largest, relative
from tipr_jax import optim
from tipr_jax.augment.token_removal import keep_all_but
from tipr_jax.losses.contrastive import cmpm_loss, l2_normalise
from tipr_jax.models import get_method
from tipr_jax.models.ivt import Config, Ivt, batch_terms, forward, text_mask
from tipr_jax.nn.dropout import drop_path_from_uniform
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import ivt
from tipr_jax.train_state import define_model
from tipr_jax.train_step import total_loss

LEVELS = 3  # the golden batch is [word; phrase; sentence], each of the same pairs


class Loaded(NamedTuple):
    config: Config
    graphdef: nnx.GraphDef
    params: dict
    state_dict: dict[str, np.ndarray]
    head_dim: int


def check_weights(report: Report) -> Loaded | None:
    """Converts weights.npz and checks the inferred sizes; None if there is no such file."""
    sizes, weights = report.json("config.json"), report.arrays("weights.npz")
    if sizes is None or weights is None:
        return None
    config = Config(
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
    head_dim = config.width // config.heads
    state_dict = {key: weights[key] for key in weights}
    params = ivt.from_torch(state_dict, head_dim)
    inferred = ivt.infer_config(state_dict, config.image_size, config.stride, head_dim)
    inferred.pop("text_length", None)  # not decided by the weights
    wrong = {k: v for k, v in inferred.items() if getattr(config, k) != v}
    grid = {"grid": (ivt.grid_of(inferred), tuple(sizes["grid"]))}
    report.exact("weights: sizes inferred from shapes", {"sizes": (wrong, {})} | grid)
    back = ivt.to_torch(params)
    report.exact(
        "weights: there and back",
        {k: (back.get(k), v) for k, v in state_dict.items() if not is_inert(k)},
    )
    graphdef = define_model(get_method("ivt"), config, ComputePolicy())[0]
    return Loaded(config, graphdef, params, state_dict, head_dim)


def is_inert(key: str) -> bool:
    """Tensors of a fine-tuned file that nothing reads (spec ivt §2.4)."""
    return key == "temp" or bool(ivt.INERT.search(key))


def check_state_dict_manifest(report: Report, loaded: Loaded) -> None:
    manifest = report.json("state_dict_manifest.json")
    if manifest is None:
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


def check_eval_features(report: Report, loaded: Loaded) -> None:
    golden, batch = report.arrays("eval_features.npz"), batch_of(report)
    if golden is None or batch is None:
        return
    stored = report.arrays("inputs.npz")
    mask = {"mask": (text_mask(by_level(batch["text_ids"])), by_level(batch["text_mask"]))}
    report.exact("inputs: text mask", mask)
    report.exact("inputs: labels", {"pid3": (np.tile(stored["pid"], LEVELS), stored["pid3"])})
    model = nnx.merge(loaded.graphdef, loaded.params)
    image, text_ids = by_level(batch["image"]), by_level(batch["text_ids"])
    ours = jax.jit(activations)(model, image, text_ids)
    for key in golden:
        want = golden[key]
        limit = 2e-6 if key == "txt_text_embed" else 5e-6  # there an LN eps of 1e-6 shows
        pair = {key: ours[key][: len(want)]} if key in ours else {}
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


def train_inputs(batch: dict, config: Config, keep_image: Any, keep_text: Any) -> dict:
    """What `objective` reads when the tokens at these positions stay."""
    rows, levels, length = batch["text_ids"].shape
    grid_rows, grid_cols = ivt.grid_of(vars(config))
    image_mask = np.isin(np.arange(1 + grid_rows * grid_cols), keep_image)
    return {
        "image": jnp.asarray(batch["image"]),
        "text_ids": jnp.asarray(batch["text_ids"]),
        "text_mask": jnp.asarray(batch["text_mask"] & np.isin(np.arange(length), keep_text)),
        "image_mask": jnp.broadcast_to(image_mask, (rows, levels, len(image_mask))),
        "row_key": jax.random.key_data(jax.random.split(jax.random.key(0), (rows, levels))),
        "person_id": jnp.asarray(batch["person_id"], jnp.int32),
        "valid": jnp.ones(rows, bool),
    }


def check_masked_train(report: Report, loaded: Loaded) -> None:
    golden, batch = report.arrays("masked_train.npz"), batch_of(report)
    if golden is None or batch is None:
        return
    norms = report.json("grad_norms.json") or {}
    gradient = jax.jit(jax.value_and_grad(features_and_loss(loaded), has_aux=True))
    for case in sorted({key.split("/")[0] for key in golden}):
        stored = golden.under(f"{case}/")
        keep = [check_removal(report, case, stored, stream) for stream in ("vis", "txt")]
        inputs = train_inputs(batch, loaded.config, *keep)
        (loss, pooled), grads = gradient(loaded.params, inputs)
        for name, key in (("image", "out_vis"), ("text", "out_txt")):
            ours, want = {key: by_level(pooled[name])}, {key: stored[key]}
            report.compare(f"masked_train {case}: {key}", ours, want, absolute(5e-6), "abs 5e-6")
        compare_loss(report, f"masked_train {case}: loss", loss, stored["loss"])
        grads = ivt.to_torch(grads)
        if full := golden.under(f"{case}/grad/"):
            pick = {key: grads[key] for key in full}
            title = f"masked_train {case}: gradients"
            report.compare(title, pick, full, of_largest(1e-4), "1e-4 * max |golden|")
        if case in norms:
            compare_norms(report, f"grad_norms {case}", grads, norms[case])


def check_removal(report: Report, case: str, stored: dict, stream: str) -> np.ndarray:
    """The kept positions, from the recorded permutation and count."""
    order = np.full(len(stored[f"perm_{stream}"]) + 1, np.inf)
    order[stored[f"perm_{stream}"]] = np.arange(len(order) - 1)
    keep = np.flatnonzero(keep_all_but(stored[f"ndrop_{stream}"], jnp.asarray(order)))
    bound = 0.5 if case.endswith("p50") else 0.2
    pairs = {
        "kept positions": (keep, np.sort(stored[f"keep_{stream}"])),
        "largest count": (int(bound * len(order)), int(stored[f"ndrop_max_{stream}"])),
    }
    report.exact(f"masked_train {case}: removal {stream}", pairs)
    return keep


def features_and_loss(loaded: Loaded):
    """params, inputs -> (CMPM loss, pooled features)."""

    def function(params: Any, inputs: dict) -> tuple[jax.Array, dict]:
        model = nnx.merge(loaded.graphdef, params)
        pooled, _ = forward(model, inputs, loaded.config)
        return total_loss(batch_terms(model, pooled, inputs, loaded.config)), pooled

    return function


def compare_loss(report: Report, title: str, ours: Any, golden: Any) -> None:
    report.compare(title, {"loss": ours}, {"loss": golden}, relative(1e-5), "rel 1e-5")


def compare_norms(report: Report, title: str, grads: dict, golden: dict[str, float]) -> None:
    """Gradient norms by official name; -1 marks a tensor without gradient."""
    trained = {key: norm for key, norm in golden.items() if norm >= 0}
    none = {key: (key in grads, False) for key in golden if key not in trained}
    report.exact(f"{title}: tensors without gradient", none)
    norms = {key: norm(value) for key, value in grads.items()}
    report.compare(f"{title}: norms", norms, trained, relative(1e-4), "rel 1e-4")


def norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def check_droppath(report: Report, loaded: Loaded) -> None:
    golden, batch = report.arrays("droppath.npz"), batch_of(report)
    if golden is None or batch is None:
        return
    depth, rates = loaded.config.depth, golden["rates"]
    # Rows: image pass, then text pass; of each the blocks but the first, both branches.
    draws = golden["uniforms"].reshape(2, depth - 1, 2, -1)
    scales = [
        drop_path_from_uniform(
            jnp.asarray(np.pad(d, ((1, 0), (0, 0), (0, 0))).transpose(2, 0, 1)), rates[-1]
        )
        for d in draws
    ]
    ours = {f"block {i}": 1 - 1 / np.max(scales[0][i]) for i in range(1, depth)}
    want = {f"block {i}": rate for i, rate in enumerate(rates) if i}
    report.compare("droppath: rates", ours, want, absolute(1e-6), "abs 1e-6")
    model = nnx.merge(loaded.graphdef, loaded.params)
    text_ids = by_level(batch["text_ids"])
    image = model.encoder.image_tokens(by_level(batch["image"]), scale=scales[0])[:, 0]
    text = model.encoder.text_tokens(text_ids, key_mask=text_mask(text_ids), scale=scales[1])[:, 0]
    for key, value in (("out_vis", image), ("out_txt", text)):
        one = {key: value}, {key: golden[key]}
        report.compare(f"droppath: {key}", *one, absolute(5e-6), "abs 5e-6")
    person_id = jnp.tile(jnp.asarray(batch["person_id"]), LEVELS)
    compare_loss(report, "droppath: loss", cmpm_loss(image, text, person_id), golden["loss"])


def check_trajectory(report: Report, loaded: Loaded) -> None:
    """Eight SGD steps with our optimiser, schedule and parameter groups."""
    golden, batch = report.arrays("trajectory.npz"), batch_of(report)
    if golden is None or batch is None:
        return
    rows, cfg = golden["rows"], get_config()
    optimizer, table = optim.make_optimizer(cfg.optimizer, cfg.schedule, loaded.params, 1)
    groups = optim.parameter_groups(loaded.params, tuple(cfg.optimizer.groups))
    columns = [groups.multipliers.index(m) for m in (1.0, 2.0)]
    function = features_and_loss(loaded)

    @jax.jit
    def step(params, state, inputs):
        (loss, _), grads = jax.value_and_grad(function, has_aux=True)(params, inputs)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, optax.tree.norm(grads)

    odd = {k: by_pair(np.asarray(by_level(v))[::-1]) for k, v in batch.items() if k != "person_id"}
    odd["person_id"] = golden["pid3_batch1"][: len(batch["person_id"])]
    report.exact(
        "trajectory: labels of odd steps",
        {"labels": (np.tile(odd["person_id"], LEVELS), golden["pid3_batch1"])},
    )
    params, state, ours = loaded.params, optimizer.init(loaded.params), []
    for s in range(len(rows)):
        keep = golden[f"keep_vis_{s}"], golden[f"keep_txt_{s}"]
        inputs = train_inputs(odd if s % 2 else batch, loaded.config, *keep)
        params, state, loss, grad_norm = step(params, state, inputs)
        ours.append([s, loss, *table[s][columns], grad_norm, optax.tree.norm(params["encoder"])])
    ours = np.asarray(ours, np.float64)
    for column, title, limit, tolerance in (
        (1, "losses", relative(1e-3), "rel 1e-3"),
        (2, "lr of weights", absolute(1e-12), "abs 1e-12"),
        (3, "lr of biases", absolute(1e-12), "abs 1e-12"),
        (4, "gradient norms", relative(1e-3), "rel 1e-3"),
        (5, "parameter norms", relative(1e-6), "rel 1e-6"),
    ):
        pair = {title: ours[:, column]}, {title: rows[:, column]}
        report.compare(f"trajectory: {title}", *pair, limit, tolerance)
    final = ivt.to_torch(params)
    stored = golden.under("final/")
    pick = {key: final[key] for key in stored if key in final}
    report.compare("trajectory: final tensors", pick, stored, absolute(1e-6), "abs 1e-6")
    norms = dict(zip(golden["final_norm_names"].tolist(), golden["final_norms"], strict=True))
    norms = {key: value for key, value in norms.items() if not is_inert(key)}
    pick = {key: norm(value) for key, value in final.items()}
    report.compare("trajectory: norms of all tensors", pick, norms, relative(1e-6), "rel 1e-6")
