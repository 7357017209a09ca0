"""IVT's training against golden arrays: token removal, DropPath, gradients, eight steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from configs.ivt import get_config
from parity.ivt.model import LEVELS, Loaded, batch_of, by_level, by_pair, is_inert, load
from parity.report import Report, absolute, of_largest, relative
from tipr_jax import optim
from tipr_jax.augment.token_removal import keep_all_but
from tipr_jax.losses.contrastive import cmpm_loss
from tipr_jax.models.ivt import Config, Ivt, batch_terms, forward, text_mask
from tipr_jax.nn.dropout import drop_path_from_uniform
from tipr_jax.nn.pos_embed import patch_grid
from tipr_jax.pretrained import ivt
from tipr_jax.train_step import total_loss


def train_inputs(batch: dict, config: Config, keep_image: Any, keep_text: Any) -> dict:
    """What `objective` reads when the tokens at these positions stay."""
    rows, levels, length = batch["text_ids"].shape
    grid_rows, grid_cols = patch_grid(config.image_size, config.patch, config.stride)
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


def check_masked_train(report: Report) -> None:
    loaded, golden, batch = load(report), report.arrays("masked_train.npz"), batch_of(report)
    if loaded is None or golden is None or batch is None:
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


def check_droppath(report: Report) -> None:
    loaded, golden, batch = load(report), report.arrays("droppath.npz"), batch_of(report)
    if loaded is None or golden is None or batch is None:
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
    model, text_ids = nnx.merge(loaded.graphdef, loaded.params), by_level(batch["text_ids"])

    @jax.jit
    def features(model: Ivt) -> tuple[jax.Array, jax.Array]:
        trunk, mask = model.encoder, text_mask(text_ids)
        image = trunk.image_tokens(by_level(batch["image"]), scale=scales[0])[:, 0]
        return image, trunk.text_tokens(text_ids, key_mask=mask, scale=scales[1])[:, 0]

    image, text = features(model)
    for key, value in (("out_vis", image), ("out_txt", text)):
        one = {key: value}, {key: golden[key]}
        report.compare(f"droppath: {key}", *one, absolute(5e-6), "abs 5e-6")
    person_id = jnp.tile(jnp.asarray(batch["person_id"]), LEVELS)
    compare_loss(report, "droppath: loss", cmpm_loss(image, text, person_id), golden["loss"])


def check_trajectory(report: Report) -> None:
    """Eight SGD steps with our optimiser, schedule and parameter groups."""
    loaded, golden, batch = load(report), report.arrays("trajectory.npz"), batch_of(report)
    if loaded is None or golden is None or batch is None:
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
