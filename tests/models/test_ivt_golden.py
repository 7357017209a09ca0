"""IVT against the released code: features, token removal, DropPath, gradients, training, names."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs.ivt import get_config
from tipr_jax import optim
from tipr_jax.augment.token_removal import keep_all_but
from tipr_jax.losses.contrastive import cmpm_loss
from tipr_jax.models import get_method
from tipr_jax.models.ivt import Config, batch_terms, forward, text_mask
from tipr_jax.nn.dropout import drop_path_from_uniform
from tipr_jax.nn.pos_embed import resize_pos_embed
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.pretrained import ivt
from tipr_jax.pretrained.key_table import torch_keys
from tipr_jax.train_state import count_parameters, define_model

GOLDEN = Path(__file__).parents[1] / "golden" / "ivt"
HEAD_DIM = 32
TOKENS = 9  # of an image, with the class token


def load(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"{name}.npz"))


@pytest.fixture(scope="module")
def loaded():
    """(config, graphdef, parameters) of the golden weights; nothing is dropped out."""
    state_dict = load("weights")
    sizes = ivt.infer_config(state_dict, (64, 32), 16, HEAD_DIM)
    config = Config(**sizes | {"text_length": 20}, drop_path=0.0, dropout=0.0)
    graphdef = define_model(get_method("ivt"), config, ComputePolicy())[0]
    return config, graphdef, ivt.from_torch(state_dict, HEAD_DIM)


def levels(x: np.ndarray) -> jax.Array:
    """Stored level after level [3*B,...] -> [B,3,...]."""
    return jnp.asarray(x.reshape(3, -1, *x.shape[1:]).swapaxes(0, 1))


def make_inputs(images, ids, person_id, keep_image, keep_text) -> dict[str, jax.Array]:
    """What `objective` reads, with the tokens at the given positions."""
    ids, image_mask = levels(ids.astype(np.int32)), np.isin(np.arange(TOKENS), keep_image)
    keep_text = np.isin(np.arange(ids.shape[-1]), keep_text)
    return {
        "image": levels(images.transpose(0, 2, 3, 1)),
        "text_ids": ids,
        "text_mask": text_mask(ids) & keep_text,
        "image_mask": jnp.broadcast_to(image_mask, (*ids.shape[:2], TOKENS)),
        "row_key": jnp.zeros((*ids.shape[:2], 2), jnp.uint32),
        "person_id": jnp.asarray(person_id, jnp.int32),
        "valid": jnp.ones(len(ids), bool),
    }


def loss_and_features(loaded):
    config, graphdef, _ = loaded

    def function(params, inputs):
        model = nnx.merge(graphdef, params)
        pooled, _ = forward(model, inputs, config)
        return batch_terms(model, pooled, inputs, config)["cmpm_loss"], pooled

    return function


def test_features(loaded):
    _, graphdef, params = loaded
    golden, stored, model = load("eval_features"), load("inputs"), nnx.merge(graphdef, params)
    image = jnp.asarray(stored["images"].transpose(0, 2, 3, 1))
    ids = jnp.asarray(stored["input_ids"], jnp.int32)
    trunk = model.encoder
    first = jax.tree.map(lambda p: p[0], (trunk.blocks, trunk.mlp_image))
    second = jax.tree.map(lambda p: p[1], trunk.blocks)
    x = first[0](trunk.embed_image(image), first[1], None, None)
    ours = {
        "out_vis": trunk.image_tokens(image)[:, 0],
        "out_txt": model.encode_text(ids),
        "txt_text_embed": trunk.text_embed(ids),
        "vis_patch_embed": trunk.patch_embed(image),
        "vis_blk1_attn": second.attn(second.ln_1(x)),
    }
    for key, want in golden.items():
        limit = 2e-6 if key == "txt_text_embed" else 5e-6
        value = ours[key][: len(want)]
        np.testing.assert_allclose(value, want, rtol=0, atol=limit, err_msg=key)


@pytest.mark.parametrize("case", ["mid", "heavy_p50"])
def test_removed_tokens(loaded, case):
    golden, stored = load("masked_train"), load("inputs")
    kept = []
    for stream in ("vis", "txt"):
        order = np.full(len(golden[f"{case}/perm_{stream}"]) + 1, np.inf)
        order[golden[f"{case}/perm_{stream}"]] = np.arange(len(order) - 1)
        keep = keep_all_but(golden[f"{case}/ndrop_{stream}"], jnp.asarray(order))
        kept.append(np.flatnonzero(keep))
        np.testing.assert_array_equal(kept[-1], np.sort(golden[f"{case}/keep_{stream}"]))
    inputs = make_inputs(stored["images"], stored["input_ids"], stored["pid"], *kept)
    gradient = jax.jit(jax.value_and_grad(loss_and_features(loaded), has_aux=True))
    (loss, pooled), grads = gradient(loaded[2], inputs)
    for name, key in (("image", "out_vis"), ("text", "out_txt")):
        want = levels(golden[f"{case}/{key}"])
        np.testing.assert_allclose(pooled[name], want, rtol=0, atol=5e-6, err_msg=key)
    np.testing.assert_allclose(loss, golden[f"{case}/loss"], rtol=1e-5)
    grads = ivt.to_torch(grads)
    for key in (k for k in golden if k.startswith(f"{case}/grad/")):
        want = golden[key]
        value = grads[key.removeprefix(f"{case}/grad/")]
        np.testing.assert_allclose(value, want, rtol=0, atol=1e-4 * np.abs(want).max(), err_msg=key)


def test_drop_path_replay(loaded):
    _, graphdef, params = loaded
    golden, stored, model = load("droppath"), load("inputs"), nnx.merge(graphdef, params)
    draws = golden["uniforms"].reshape(2, 2, 2, 12)  # stream, block 1 or 2, branch, row
    draws = np.pad(draws, ((0, 0), (1, 0), (0, 0), (0, 0))).transpose(0, 3, 1, 2)
    image_scale, text_scale = (
        drop_path_from_uniform(jnp.asarray(d), golden["rates"][-1]) for d in draws
    )
    ids = jnp.asarray(stored["input_ids"], jnp.int32)
    image = jnp.asarray(stored["images"].transpose(0, 2, 3, 1))
    image = model.encoder.image_tokens(image, scale=image_scale)[:, 0]
    text = model.encoder.text_tokens(ids, key_mask=text_mask(ids), scale=text_scale)[:, 0]
    np.testing.assert_allclose(image, golden["out_vis"], rtol=0, atol=5e-6)
    np.testing.assert_allclose(text, golden["out_txt"], rtol=0, atol=5e-6)
    loss = cmpm_loss(image, text, jnp.asarray(stored["pid3"], jnp.int32))
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)


def test_trajectory(loaded):
    """Eight steps with our optimiser; only the final tensors see the weight decay."""
    golden, stored, cfg = load("trajectory"), load("inputs"), get_config()
    params = loaded[2]
    optimizer, table = optim.make_optimizer(cfg.optimizer, cfg.schedule, params, 1)
    function = loss_and_features(loaded)

    @jax.jit
    def step(params, state, inputs):
        (loss, _), grads = jax.value_and_grad(function, has_aux=True)(params, inputs)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, optax.tree.norm(grads)

    batches = (
        (stored["images"], stored["input_ids"], stored["pid"]),
        (stored["images"][::-1], stored["input_ids"][::-1], golden["pid3_batch1"][:4]),
    )
    state, rows = optimizer.init(params), []
    for s in range(len(golden["rows"])):
        keep = golden[f"keep_vis_{s}"], golden[f"keep_txt_{s}"]
        params, state, loss, norm = step(params, state, make_inputs(*batches[s % 2], *keep))
        rows.append([loss, norm, optax.tree.norm(params)])
    want = golden["rows"]
    np.testing.assert_allclose(table[:8], want[:, 2:4], rtol=0, atol=1e-12)
    np.testing.assert_allclose(rows, want[:, [1, 4, 5]], rtol=1e-3)
    final = ivt.to_torch(params)
    for key in (k for k in golden if k.startswith("final/")):
        value = final[key.removeprefix("final/")]
        np.testing.assert_allclose(value, golden[key], rtol=0, atol=1e-6, err_msg=key)
    norms = dict(zip(golden["final_norm_names"], golden["final_norms"], strict=True))
    for key, value in final.items():
        np.testing.assert_allclose(np.linalg.norm(value), norms[key], rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("case", ["repeat", "unique", "same", "large"])
def test_cmpm(case):
    golden = {k.split("/")[1]: v for k, v in load("cmpm").items() if k.startswith(f"{case}/")}
    gradient = jax.value_and_grad(cmpm_loss, (0, 1))
    features = jnp.asarray(golden["img"]), jnp.asarray(golden["txt"])
    loss, grads = gradient(*features, jnp.asarray(golden["labels"], jnp.int32))
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    for ours, want in zip(grads, (golden["grad_img"], golden["grad_txt"]), strict=True):
        np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_full_size_names_and_shapes():
    init = define_model(get_method("ivt"), Config.vit_b16(), ComputePolicy())[2]
    params = jax.eval_shape(init, jax.random.key(0))
    assert count_parameters(params) == 166_631_424
    flat, ours = flatten(params), {}
    for key, (row, layer) in torch_keys(params, ivt.TABLE).items():
        shape = flat[row.path].shape if layer is None else flat[row.path].shape[1:]
        ours[key] = list(row.transform.to_torch(np.broadcast_to(np.int8(0), shape)).shape)
    stored = json.loads((GOLDEN / "full_size_manifest_stride12.json").read_text())
    del stored["encoder_vl.embeddings.position_ids"]  # 0, 1, 2, ...
    assert ours == stored


def test_schedule():
    golden, cfg = load("lr_schedule"), get_config()
    base = cfg.optimizer.learning_rate
    for epoch, *rates in golden["table"]:
        ours = [optim.learning_rate(cfg.schedule, int(epoch) - 1, base * m) for m in (1, 2)]
        np.testing.assert_allclose(ours, rates, rtol=0, atol=1e-12, err_msg=epoch)
    table = optim.learning_rate_table(cfg.schedule, base, (1.0, 2.0))
    np.testing.assert_allclose(table, golden["table"][1:, 1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ["s16", "s12", "up"])
def test_position_resize(case):
    golden = load("pos_resize")
    grid = tuple(int(n) for n in golden[f"{case}/hw"])
    resized = resize_pos_embed(jnp.asarray(golden[f"{case}/src"][0]), grid)
    np.testing.assert_allclose(resized, golden[f"{case}/out"][0], rtol=0, atol=5e-6)
