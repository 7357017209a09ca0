"""IVT's inputs, losses and switches: what is drawn, what is cut, which mesh, which mistakes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tipr_jax.augment.image import normalise
from tipr_jax.models import get_method
from tipr_jax.models.ivt import MEAN, STD, Config, objective, prepare_inputs
from tipr_jax.precision import ComputePolicy
from tipr_jax.train_state import define_model
from tipr_jax.train_step import accumulated_gradient, full_gradient

METHOD = get_method("ivt")
B, L = 16, 12
CLEAN = dict(levels=("sentence",), mask="none")
TINY = Config.tiny(text_length=L, dropout=0.2, drop_path=0.3)
# Without noise: the random numbers of the fusion layers triple the time to compile.
PRETRAIN = Config.tiny(text_length=L, dropout=0, drop_path=0, losses=("itc", "itm", "mlm"), **CLEAN)
make_inputs = jax.jit(prepare_inputs, static_argnums=2)


def make_batch(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)

    def texts(longest: int) -> np.ndarray:
        ids = rng.integers(2, 128, (B, L))
        ids[np.arange(L)[None] >= rng.integers(2, longest + 1, B)[:, None]] = 0
        ids[:, 0] = 1
        return ids.astype(np.int32)

    batch = {
        "image": rng.integers(0, 256, (B, 32, 16, 3), dtype=np.uint8),
        "text_ids": texts(L - 2),
        "word_ids": texts(4),
        "phrase_ids": texts(6),
        "person_id": np.repeat(np.arange(B // 2), 2).astype(np.int32),
        "image_id": np.arange(B, dtype=np.int32),
        "valid": np.arange(B) < B - 2,
    }
    batch["mlm_ids"] = np.where(rng.random((B, L)) < 0.2, 3, batch["text_ids"]).astype(np.int32)
    batch["mlm_positions"] = np.tile([1, 2, 0], (B, 1)).astype(np.int32)
    labels = np.tile([5, 6, -100], (B, 1))
    labels[3] = -100
    batch["mlm_labels"] = labels.astype(np.int32)
    batch["text_ids"][~batch["valid"]] = batch["image"][~batch["valid"]] = 0
    return {k: jnp.asarray(v) for k, v in batch.items()}


@functools.cache
def make_model(config: Config):
    graphdef, _, init = define_model(METHOD, config, ComputePolicy())
    return graphdef, jax.jit(init)(jax.random.key(0))


@functools.cache
def jitted_gradient(config: Config):
    return jax.jit(full_gradient(METHOD, config, make_model(config)[0]))


def gradient(config: Config, **batch):
    """(gradients, terms) of one batch; IVT has no statistics."""
    inputs = make_inputs(make_batch() | batch, jax.random.key(0), config)
    return jitted_gradient(config)(make_model(config)[1], {}, inputs)[:2]


def assert_same(got, want, tolerance=1e-5):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        error = jnp.linalg.norm(a - b) / jnp.maximum(jnp.linalg.norm(b), 1e-4)
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error}"


def test_levels_and_views():
    batch = make_batch()
    config = dataclasses.replace(TINY, levels=("sentence", "word"), mask="none")
    inputs = make_inputs(batch, jax.random.key(0), config)
    np.testing.assert_array_equal(inputs["text_ids"][:, 0], batch["text_ids"])
    np.testing.assert_array_equal(inputs["text_ids"][:, 1], batch["word_ids"])
    assert inputs["image"].shape == (B, 2, 32, 16, 3) and "image_mask" not in inputs
    assert (inputs["image"][:, 0] != inputs["image"][:, 1]).any()  # independent views
    again = make_inputs(batch, jax.random.key(0), config)
    assert all(np.array_equal(inputs[k], again[k]) for k in inputs)
    other = make_inputs(batch, jax.random.key(1), config)
    assert (inputs["image"] != other["image"]).any()


def test_views_without_augmentation_only_flip():
    batch, config = make_batch(), dataclasses.replace(TINY, augment=False)
    views = make_inputs(batch, jax.random.key(0), config)["image"]
    plain = normalise(batch["image"], MEAN, STD)[:, None]
    same = [
        jnp.all(jnp.abs(views - image) < 1e-5, axis=(2, 3, 4))
        for image in (plain, plain[:, :, :, ::-1])
    ]
    assert (same[0] | same[1]).all() and not same[0].all() and not same[1].all()


@pytest.mark.parametrize("mask", ["both", "image", "text", "none"])
def test_masked_streams(mask):
    """Over several draws, tokens are removed from the named streams and from no other."""
    config, batch = dataclasses.replace(TINY, mask=mask, mask_bound=0.5), make_batch()
    plain = dataclasses.replace(config, mask="none")
    image = text = False
    for i in range(6):
        inputs = make_inputs(batch, jax.random.key(i), config)
        clean = make_inputs(batch, jax.random.key(i), plain)
        text |= bool((inputs["text_mask"] != clean["text_mask"]).any())
        if "image_mask" in inputs:
            image |= bool((~inputs["image_mask"]).any())
            assert inputs["image_mask"][:, :, 0].all() and inputs["text_mask"][:, :, 0].all()
    assert (image, text) == (mask in ("both", "image"), mask in ("both", "text"))


@pytest.mark.parametrize(
    "changes, terms",
    [
        ({}, {"cmpm_loss"}),
        ({"levels": ("phrase",), "mask_per_sample": True}, {"cmpm_loss"}),
        ({"levels": ("word", "sentence"), "mask": "image"}, {"cmpm_loss"}),
        ({"losses": ("cmpm", "itc"), "normalise_itc": True}, {"cmpm_loss", "itc_loss"}),
        ({"losses": ("itc", "itm", "mlm"), **CLEAN}, {"itc_loss", "itm_loss", "mlm_loss"}),
        ({"losses": ("mlm",), **CLEAN}, {"mlm_loss"}),
    ],
)
def test_every_parameter_learns(changes, terms):
    """Finite terms, and a gradient for all that the losses are made of."""
    grads, values = gradient(dataclasses.replace(TINY, drop_path=0.0, dropout=0.0, **changes))
    assert {k for k in values if k.endswith("_loss")} == terms
    assert all(np.isfinite(v) for v in values.values())
    idle = [jax.tree_util.keystr(p) for p, g in jax.tree.leaves_with_path(grads) if not g.any()]
    assert not idle, idle


def test_padding_rows_change_nothing():
    config = dataclasses.replace(PRETRAIN, augment=False, losses=("itc", "mlm"))
    batch = make_batch()
    noise = jnp.where(batch["valid"][:, None], batch["text_ids"], 9)
    mlm_ids = jnp.where(batch["valid"][:, None], batch["mlm_ids"], 9)
    got, want = gradient(config, text_ids=noise, mlm_ids=mlm_ids), gradient(config)
    assert_same(got, want)


def test_dropout_and_drop_path_act():
    """Same key, same terms; without noise another loss."""
    first, again = gradient(TINY)[1], gradient(TINY)[1]
    clean = gradient(dataclasses.replace(TINY, dropout=0.0, drop_path=0.0))[1]
    assert first == again and abs(first["cmpm_loss"] - clean["cmpm_loss"]) > 1e-4


@pytest.mark.parametrize(
    "config, count",
    [(TINY, 4), (dataclasses.replace(PRETRAIN, losses=("itc", "mlm")), 2)],
    ids=["cmpm", "mlm"],
)
def test_micro_batches_change_nothing(config, count):
    """Noise included: it belongs to the row, not to its place in a batch."""
    graphdef, params = make_model(config)
    inputs = make_inputs(make_batch(), jax.random.key(0), config)
    got = jax.jit(accumulated_gradient(METHOD, config, graphdef, count))(params, {}, inputs)
    assert_same(got, jitted_gradient(config)(params, {}, inputs))


def test_hard_negatives_refuse_micro_batches():
    graphdef, params = make_model(PRETRAIN)
    inputs = make_inputs(make_batch(), jax.random.key(0), PRETRAIN)
    with pytest.raises(ValueError, match="micro_batches=1"):
        accumulated_gradient(METHOD, PRETRAIN, graphdef, 2)(params, {}, inputs)


@pytest.mark.parametrize(
    "config, shape", [(TINY, (8, 1)), (PRETRAIN, (2, 4))], ids=["finetune", "pretrain"]
)
@pytest.mark.slow
def test_mesh_changes_nothing(config, shape):
    graphdef, params = make_model(config)
    function = full_gradient(METHOD, config, graphdef)

    def step(params, batch):
        return function(params, {}, prepare_inputs(batch, jax.random.key(0), config))

    want = jax.jit(step)(params, make_batch())
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, P(("data", "model")))
    sharded = jax.device_put(make_batch(), rows)
    got = jax.jit(step)(jax.device_put(params, NamedSharding(mesh, P())), sharded)
    assert_same(got, jax.device_get(want))


def test_encoders_are_the_evaluated_forward():
    """Padding behind a text changes nothing; features are float32 and not normalised."""
    graphdef, params = make_model(TINY.for_inference())
    model, batch = nnx.merge(graphdef, params), make_batch()
    ids = batch["word_ids"]
    text = model.encode_text(ids)
    np.testing.assert_allclose(model.encode_text(ids[:, :4]), text, rtol=0, atol=1e-5)
    image = model.encode_image(batch["image"])
    assert image.shape == text.shape == (B, TINY.width) and image.dtype == jnp.float32
    # The final norm, still with scale 1, gives every feature the length sqrt(D).
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), TINY.width**0.5, rtol=1e-2)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"losses": ("cmpn",)}, "cmpn"),
        ({"levels": ("word", "clause")}, "clause"),
        ({"levels": ()}, "levels is empty"),
        ({"mask": "all"}, "mask is 'all'"),
        ({"mask_bound": 1.0}, "mask_bound"),
        ({"temperature": 0.0}, "positive"),
        ({"heads": 7}, "not divisible"),
        ({"text_length": 33}, "32 positions"),
        ({"losses": ("itm",)}, "need levels"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Config.tiny(**changes)


def test_objective_is_the_sum_of_its_parts():
    config = dataclasses.replace(PRETRAIN, losses=("itc", "mlm"))
    graphdef, params = make_model(config)
    model = nnx.merge(graphdef, params)
    inputs = make_inputs(make_batch(), jax.random.key(0), config)
    pooled, tokens = METHOD.parts.forward(model, inputs, config)
    terms = METHOD.parts.batch_terms(model, pooled, inputs, config)
    totals = METHOD.parts.totals(inputs, config)
    terms |= METHOD.parts.row_terms(model, tokens, inputs, config, totals)
    whole = objective(model, inputs, config)
    assert set(whole) == set(terms)
    assert all(np.allclose(whole[k], terms[k]) for k in whole)
