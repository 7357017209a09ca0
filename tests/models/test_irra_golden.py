"""IRRA against the released code: features, losses, gradients and a training trajectory."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs.irra import get_config
from tipr_jax import optim
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config, objective
from tipr_jax.nn.clip_text import end_token
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import irra
from tipr_jax.train_state import define_model
from tipr_jax.train_step import total_loss

GOLDEN = Path(__file__).parents[1] / "golden" / "irra"
SIZES = json.loads((GOLDEN / "configs.json").read_text())
ALL_LOSSES = ("sdm", "mlm", "id", "itc", "cmpm")


def load(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"{name}.npz"))


def load_model(name: str) -> tuple[Config, nnx.GraphDef, dict]:
    state_dict, sizes = load(f"weights_{name}"), SIZES[name]
    inferred = irra.infer_config(state_dict, tuple(sizes["image"]), sizes["stride"])
    # The golden caption_ids are clean: fed as stored.
    config = Config(**inferred | {"losses": ("sdm", "mlm", "id"), "mask_caption_ids": False})
    graphdef = define_model(get_method("irra"), config, ComputePolicy())[0]
    return config, graphdef, irra.from_torch(state_dict)


def read_inputs(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, jax.Array]:
    ids = {k: jnp.asarray(arrays[prefix + k]) for k in ("caption_ids", "mlm_ids", "mlm_labels")}
    return ids | {
        "image": jnp.asarray(arrays[f"{prefix}images"].transpose(0, 2, 3, 1)),
        "person_id": jnp.asarray(arrays[f"{prefix}pids"]),
        "image_id": jnp.asarray(arrays[f"{prefix}image_ids"]),
        "valid": jnp.ones(len(arrays[f"{prefix}pids"]), bool),
    }


def intermediates(model: nnx.Module, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    image = model.image_encoder(inputs["image"])
    text = model.text_encoder(inputs["caption_ids"])
    masked = model.text_encoder(inputs["mlm_ids"])
    fused = model.fusion(masked, image)
    t_feats = end_token(text, inputs["caption_ids"])
    return {
        "image_feats": image,
        "text_feats": text,
        "mlm_text_feats": masked,
        "i_feats": image[:, 0],
        "t_feats": t_feats,
        "cross_attn_out": model.fusion.attend(masked, image),
        "cross_former_out": fused,
        "mlm_logits": model.mlm_head(fused),
        "image_id_logits": model.classifier(image[:, 0]),
        "text_id_logits": model.classifier(t_feats),
    }


@pytest.mark.parametrize("name", ["s16", "s12"])
def test_features(name):
    _, graphdef, params = load_model(name)
    golden = load(f"forward_{name}")
    features = jax.jit(intermediates)(nnx.merge(graphdef, params), read_inputs(golden, "in/"))
    for key, value in features.items():
        stored = next(k for k in golden if k.partition("@")[0] == f"out/{key}")
        step = int(stored.partition("@")[2] or 1)
        ours, want = np.asarray(value).reshape(-1)[::step], golden[stored].reshape(-1)
        np.testing.assert_allclose(ours, want, rtol=0, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("name", ["s16", "s12"])
def test_losses_and_gradients(name):
    config, graphdef, params = load_model(name)
    forward, golden = load(f"forward_{name}"), load(f"grads_{name}")
    inputs = read_inputs(forward, "in/")
    everything = dataclasses.replace(config, losses=ALL_LOSSES)

    def total(params: dict, names: tuple[str, ...]):
        terms = objective(nnx.merge(graphdef, params), inputs, everything)
        return sum(terms[f"{n}_loss"] for n in names), terms

    gradient = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    grads, terms = gradient(params, config.losses)
    for loss in ALL_LOSSES:
        want = forward[f"out/ret/{loss}_loss"]
        np.testing.assert_allclose(
            terms[f"{loss}_loss"], want, rtol=0, atol=1e-5 * max(1, abs(want)), err_msg=loss
        )
    np.testing.assert_allclose(total_loss(terms), forward["out/total_loss_all5"], rtol=1e-5)
    for ours, key in (("image", "img"), ("text", "txt"), ("mlm", "mlm")):
        assert float(terms[f"{ours}_accuracy"]) == float(forward[f"out/ret/{key}_acc"])
    check_gradients(irra.to_torch(grads), golden, "")
    check_gradients(irra.to_torch(gradient(params, ALL_LOSSES)[0]), golden, "all5/")


def check_gradients(ours: dict, golden: dict, prefix: str) -> None:
    norms = {key: np.linalg.norm(np.float64(value)) for key, value in ours.items()}
    names = [k.removeprefix(f"{prefix}norm/") for k in golden if k.startswith(f"{prefix}norm/")]
    assert set(names) == set(norms)
    for key in names:
        np.testing.assert_allclose(norms[key], golden[f"{prefix}norm/{key}"], 1e-4, err_msg=key)
    np.testing.assert_allclose(
        np.linalg.norm(list(norms.values())), golden[f"{prefix}global_norm"], 1e-4
    )
    for key in (k for k in golden if k.startswith(f"{prefix}full/")):
        want = golden[key]
        value = ours[key.removeprefix(f"{prefix}full/")]
        limit = 1e-4 * np.abs(want).max()
        np.testing.assert_allclose(value, want, rtol=0, atol=limit, err_msg=key)


def test_other_weights_and_temperature():
    config, graphdef, params = load_model("s12")
    golden = load("forward_s12")
    changed = dataclasses.replace(config, temperature=0.07, mlm_weight=0.5, id_weight=2.0)
    model, inputs = nnx.merge(graphdef, params), read_inputs(golden, "in/")
    terms = jax.jit(objective, static_argnums=2)(model, inputs, changed)
    for name in ("sdm_loss", "mlm_loss", "id_loss"):
        np.testing.assert_allclose(terms[name], golden[f"out/alt_tau0.07_mlm0.5_id2/{name}"], 1e-5)


def test_trajectory():
    """Twelve steps with warm-up, cosine and a strong weight decay."""
    config, graphdef, params = load_model("s12")
    golden = load("trajectory_s12")
    hyper = json.loads(str(golden["sched/hyper_json"]))
    run = get_config()
    run.optimizer.update({"learning_rate": hyper["lr"], "weight_decay": hyper["weight_decay"]})
    run.schedule.num_epochs = hyper["num_epoch"]
    complete = params | {"logit_scale": 0.0}
    optimizer, _ = optim.make_optimizer(run.optimizer, run.schedule, params, 1, complete)
    batches = [read_inputs(golden, f"batch{j}/") for j in range(3)]

    @jax.jit
    def step(params, state, inputs):
        def total(params):
            return total_loss(objective(nnx.merge(graphdef, params), inputs, config))

        loss, grads = jax.value_and_grad(total)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    before, state, losses = irra.to_torch(params), optimizer.init(params), []
    for j in golden["batch_order"]:
        params, state, loss = step(params, state, batches[j])
        losses.append(float(loss))
    np.testing.assert_allclose(losses, golden["sched/total_loss"], rtol=2e-4)
    after = irra.to_torch(params)
    for i, key in enumerate(golden["param_names"]):
        final, change = np.float64(after[key]), np.float64(after[key]) - before[key]
        np.testing.assert_allclose(np.linalg.norm(final), golden["sched/final_norm"][i], 1e-5)
        np.testing.assert_allclose(np.linalg.norm(change), golden["sched/delta_norm"][i], 1e-3)
        if f"sched/final/{key}" in golden:
            np.testing.assert_allclose(final, golden[f"sched/final/{key}"], rtol=0, atol=5e-6)
