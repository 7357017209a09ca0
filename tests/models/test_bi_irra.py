"""Bi-IRRA's switches, randomness, languages and layouts, on a tiny model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bi_irra_batch import make_batch
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from machine import ULP

from tipr_jax import sharding
from tipr_jax.models import get_method
from tipr_jax.models.bi_irra import objective as training
from tipr_jax.models.bi_irra.config import LOSSES, Config
from tipr_jax.models.bi_irra.model import text_mask
from tipr_jax.param_tree import flatten, unflatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.train_state import define_model
from tipr_jax.train_step import total_loss

QUIET = dict(dropout=0.0, drop_path=0.0)


FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(jax.jit, compiler_options=FAST_COMPILE)


@functools.cache
def every_parameter() -> dict:
    """Those of all heads, drawn once: initialising compiles as long as a step."""
    config = Config.tiny(losses=LOSSES, tie_decoder=False)
    return flatten(
        jit(define_model(get_method("bi_irra"), config, ComputePolicy())[2])(jax.random.key(0))
    )


@functools.cache
def build(config: Config):
    """(graphdef, parameters) of a model; the projections of the targets as many as it has."""
    graphdef, abstract, _ = define_model(get_method("bi_irra"), config, ComputePolicy())
    drawn, shapes = every_parameter(), flatten(nnx.to_pure_dict(abstract))
    return graphdef, unflatten({k: jnp.broadcast_to(drawn[k], x.shape) for k, x in shapes.items()})


def terms_and_gradient(config: Config, batch: dict, key: int = 1):
    """(loss terms, gradient of their sum) of one training step."""
    graphdef, params = build(config)

    def loss(params, inputs):
        terms = training.objective(nnx.merge(graphdef, params), inputs, config)
        return total_loss(terms), terms

    inputs = inputs_of(config, batch, key)
    grads, terms = jit(jax.grad(loss, has_aux=True))(params, inputs)
    return jax.device_get(terms), flatten(jax.device_get(grads))


def terms_of(config: Config, *steps: tuple[dict, int]) -> list[dict]:
    """Loss terms of several (batch, key), compiled once."""
    graphdef, params = build(config)
    run = jit(lambda p, i: training.objective(nnx.merge(graphdef, p), i, config))
    return [jax.device_get(run(params, inputs_of(config, *step))) for step in steps]


def inputs_of(config: Config, batch: dict, key: int = 1) -> dict:
    arrays = jax.tree.map(jnp.asarray, batch)
    return training.prepare_inputs(arrays, jax.random.key(key), config)


def reached(grads: dict, path: str) -> bool:
    return bool(np.any(grads[path] != 0))


FULL = {"itc_loss", "itm_loss", "mlm_loss", "mim_loss"}
# Every value of every switch, several to a case: a compilation takes most of a test's time.
ABLATIONS = {
    "published": ({}, FULL),
    "x2vlm": ({"losses": ("itc", "itm"), "itm_mask_target": "none"}, {"itc_loss", "itm_loss"}),
    "no mim, text masks on the source": (
        {"losses": ("itc", "itm", "mlm"), "itm_mask_source": "text", "itc_mask_source": "text"},
        FULL - {"mim_loss"},
    ),
    "sdm and id, class token": (
        {"losses": ("sdm", "id", "mlm", "mim"), "mim_target": "cls"},
        {"sdm_loss", "id_loss", "mlm_loss", "mim_loss"},
    ),
    "no mlm, attention, image masks on the source": (
        {
            "losses": ("itc", "itm", "mim"),
            "mim_target": "attention",
            "itm_mask_source": "image",
            "itm_mask_target": "none",
            "itc_mask_source": "image",
        },
        FULL - {"mlm_loss"},
    ),
    "swapped languages, smooth l1, text masks on the target": (
        {
            "mim_pairs": (("target", "source"),),
            "mim_loss": "smooth_l1",
            "itm_mask_target": "text",
            "itc_mask_target": "text",
        },
        FULL,
    ),
    "both languages, contrast with the masked image, roberta": (
        {
            "mim_pairs": (("source", "source"), ("target", "target")),
            "itc_mask_target": "image",
            "positions": "roberta",
        },
        FULL,
    ),
    "three targets, untied": (
        {
            "languages": ("en", "zh", "fr", "de"),
            "separate_target_proj": True,
            "tie_decoder": False,
            "losses": ("itc", "mlm"),
        },
        {"itc_loss", "mlm_loss"},
    ),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_switch_trains_one_step(name):
    changes, losses = ABLATIONS[name]
    config = Config.tiny(**QUIET, **changes)
    terms, grads = terms_and_gradient(config, make_batch())
    found = {key for key in terms if key.endswith("_loss")}
    assert found == losses
    assert all(np.isfinite(value) for value in terms.values())
    assert all(np.all(np.isfinite(value)) for value in grads.values())
    # Whatever exists is trained: AdamW would decay a parameter that nothing reads.
    idle = {path for path in grads if not reached(grads, path)}
    assert not idle, idle


def test_weights_scale_their_own_terms():
    names = ("itc", "itm", "mlm", "mim", "id")
    config = Config.tiny(**QUIET, losses=names)
    factors = {f"{name}_loss": factor for factor, name in enumerate(names, 2)}
    weights = {
        f"{name}_weight": getattr(config, f"{name}_weight") * factors[f"{name}_loss"]
        for name in names
    }
    (base,) = terms_of(config, (make_batch(), 1))
    (heavy,) = terms_of(dataclasses.replace(config, **weights), (make_batch(), 1))
    for key in base:
        want = factors.get(key, 1) * base[key]
        np.testing.assert_allclose(heavy[key], want, rtol=1e-5, err_msg=key)


def test_gradient_scale_slows_the_encoders_but_not_the_temperature():
    config = Config.tiny(**QUIET, losses=("itc",), itc_feature_grad_scale=1.0)
    slow = dataclasses.replace(config, itc_feature_grad_scale=0.25)
    terms, grads = terms_and_gradient(config, make_batch())
    slow_terms, slow_grads = terms_and_gradient(slow, make_batch())
    np.testing.assert_allclose(slow_terms["itc_loss"], terms["itc_loss"], rtol=1e-6)
    np.testing.assert_allclose(slow_grads["temperature"], grads["temperature"], rtol=1e-4)
    for path in ("vision_proj/kernel", "text_encoder/embed/word", "target_proj/bias"):
        scale = np.abs(grads[path]).max()
        np.testing.assert_allclose(slow_grads[path], 0.25 * grads[path], atol=1e-5 * scale)


def test_temperature_is_clamped_but_can_return():
    config = Config.tiny(**QUIET, losses=("itc",))
    graphdef, params = build(config)
    model = nnx.merge(graphdef, params | {"temperature": jnp.float32(0.9)})
    value, slope = jax.value_and_grad(
        lambda t: nnx.merge(graphdef, params | {"temperature": t}).learned_temperature(config)
    )(jnp.float32(0.9))
    assert float(value) == 0.5 and float(slope) == 1.0
    assert float(model.learned_temperature(config)) == 0.5


def encoded(config: Config, batch: dict):
    graphdef, params = build(config)
    model, inputs = nnx.merge(graphdef, params), inputs_of(config, batch)
    return model, inputs, jit(lambda m, i: training.encode(m, i, config))(model, inputs)


@pytest.mark.parametrize("target", ["feature", "attention"])
def test_the_teacher_gets_no_gradient(target):
    config = Config.tiny(**QUIET, mim_target=target)
    model, inputs, tokens = encoded(config, make_batch())

    def loss(clean, masked, source, target_text):
        image = {"clean": clean, "masked": masked}
        text = tokens.text | {("source", "clean"): source, ("target", "clean"): target_text}
        changed = tokens._replace(image=image, text=text)
        return training.distance(model, changed, inputs, config, "source", "target")

    parts = tokens.image["clean"], tokens.image["masked"]
    parts += tokens.text["source", "clean"], tokens.text["target", "clean"]
    clean, masked, source, target_text = jit(jax.grad(loss, (0, 1, 2, 3)))(*parts)
    assert not np.any(clean) and not np.any(source)
    assert np.any(masked) and np.any(target_text)


def test_negatives_stay_in_their_group_and_avoid_the_person():
    config = Config.tiny(**QUIET)
    batch = make_batch(person_id=np.array([0, 0, 1, 2, 3, 3, 3, 3], np.int32))
    model, inputs, tokens = encoded(config, batch)
    ids = batch["person_id"]
    for key in range(5):
        image, text = training.features(model, tokens, inputs, "source")
        drawn = training.hard_negatives(
            image,
            text,
            inputs["person_id"],
            jax.random.split(jax.random.key(key), 8),
            scale=1 / 0.07,
            valid=inputs["valid"],
            epsilon=training.NEGATIVE_FLOOR,
            group_size=4,
        )
        for index in map(np.asarray, drawn):
            assert np.all(index // 4 == np.arange(8) // 4)
            assert np.all(ids[index[:4]] != ids[:4])
            # The second group holds one person: any other row will do, never the row itself.
            assert np.all(index != np.arange(8))


def test_batch_that_cannot_be_grouped():
    with pytest.raises(ValueError, match="6 cannot be cut into groups of 4"):
        training.group_size(6, Config.tiny(itm_group_size=4))
    assert training.group_size(6, Config.tiny(itm_group_size=32)) == 6


def test_padding_rows_change_nothing():
    config = Config.tiny(**QUIET, losses=("itc", "mlm", "mim", "sdm", "id"))
    valid = np.arange(8) < 6
    a = make_batch(valid=valid)
    other = make_batch(seed=7)
    b = {k: np.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, other[k]) for k, x in a.items()}
    b["valid"] = valid
    first, second = terms_of(config, (a, 1), (b, 1))
    for key in first:
        np.testing.assert_allclose(second[key], first[key], rtol=1e-5, err_msg=key)


def test_noise_comes_from_the_key_alone():
    config = Config.tiny(dropout=0.3, drop_path=0.3)
    batch, alone = make_batch(), make_batch(person_id=np.zeros(8, np.int32))
    first, again, other, single = terms_of(config, (batch, 3), (batch, 3), (batch, 4), (alone, 3))
    assert first == again
    # A batch of one person has no negatives to choose from and still trains.
    assert all(np.isfinite(x) for x in single.values())
    assert all(first[k] != other[k] for k in FULL - {"itc_loss"})


def test_evaluation_has_no_noise():
    batch = make_batch()
    graphdef, params = build(Config.tiny(dropout=0.3, drop_path=0.3))
    quiet, _ = build(Config.tiny(**QUIET))
    a, b = (nnx.merge(g, params) for g in (graphdef, quiet))
    np.testing.assert_array_equal(a.encode_image(batch["image"]), b.encode_image(batch["image"]))
    np.testing.assert_array_equal(
        a.encode_text(batch["text_ids"]), b.encode_text(batch["text_ids"])
    )


def test_each_target_language_has_its_projection():
    config = Config.tiny(languages=("en", "zh", "fr"), separate_target_proj=True)
    graphdef, params = build(config)
    ids = make_batch()["text_ids"]
    same = nnx.merge(graphdef, params)
    # All projections start as a copy of the source's.
    pair = same.encode_text(ids, 2), same.encode_text(ids, 0)
    np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-6)  # sums of terms of order 1
    kernel = params["target_proj"]["kernel"]
    params = params | {"target_proj": params["target_proj"] | {"kernel": kernel.at[1].multiply(2)}}
    model = nnx.merge(graphdef, params)
    zh, fr = model.encode_text(ids, 1), model.encode_text(ids, 2)
    np.testing.assert_allclose(zh, same.encode_text(ids, 1), rtol=1e-5)
    assert not np.allclose(fr, zh)
    tokens, language = model.text_tokens(ids), jnp.array([1, 2] * 4)
    rows = model.text_feature(tokens, language)
    np.testing.assert_allclose(rows, np.where((language == 1)[:, None], zh, fr), rtol=1e-5)


def test_match_equals_one_pair_at_a_time():
    config = Config.tiny().for_inference()
    graphdef, params = build(config)
    model, batch = nnx.merge(graphdef, params), make_batch()
    image, text = model.image_tokens(batch["image"]), model.text_tokens(batch["text_ids"])
    mask = text_mask(jnp.asarray(batch["text_ids"]))
    together = model.match(image, text, mask)
    assert together.shape == (8, 2) and together.dtype == jnp.float32
    for i in (0, 5):
        # Alone, and without the padding.
        n = int(mask[i].sum())
        ids = batch["text_ids"][i : i + 1, :n]
        one = model.match(image[i : i + 1], model.text_tokens(ids), text_mask(jnp.asarray(ids)))
        np.testing.assert_allclose(one[0], together[i], atol=1e-5)


def test_towers_are_a_part_of_the_model():
    whole, part = (build(c)[1] for c in (Config.tiny(), Config.tiny().for_inference()))
    assert set(part) == set(whole) - {"mim_head", "mlm_head"}
    assert set(flatten(part)) == {
        k for k in flatten(whole) if not k.startswith(("mim_", "mlm_")) and "mask_embed" not in k
    }
    assert "fusion" not in build(Config.tiny(losses=("sdm",)))[1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"losses": ("itc", "itn")}, "itn"),
        ({"itm_mask_source": "images"}, "itm_mask_source is 'images'"),
        ({"mim_pairs": (("source",),)}, "pairs"),
        ({"languages": ("en",)}, "at least one target"),
        ({"languages": ("en", "en")}, "at least one target"),
        ({"text_length": 33}, "needs 33 positions"),
        ({"positions": "roberta", "text_length": 31}, "needs 33 positions"),
        ({"vision_heads": 3}, "not divisible by vision_heads 3"),
        ({"temperature": 0.7}, "temperature_range"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_fields_are_explained(changes, message):
    with pytest.raises(ValueError, match=message):
        Config.tiny(**changes)


@pytest.mark.parametrize("rules, shape", [("data_parallel", (8, 1)), ("tensor_parallel", (2, 4))])
@pytest.mark.slow
def test_mesh_changes_nothing(rules, shape):
    """Losses and gradients of one batch, on one device and on eight; noise and groups included."""
    config = Config.tiny(dropout=0.1, drop_path=0.1, itm_group_size=4)
    batch = make_batch(valid=np.arange(8) < 7)
    graphdef, params = build(config)
    abstract = define_model(get_method("bi_irra"), config, ComputePolicy())[1]

    def step(params, batch):
        inputs = training.prepare_inputs(batch, jax.random.key(1), config)

        def loss(params):
            terms = training.objective(nnx.merge(graphdef, params), inputs, config)
            return total_loss(terms), terms

        return jax.grad(loss, has_aux=True)(params)

    grads, terms = jax.device_get(jit(step)(params, batch))
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    table = sharding.RULES[rules]
    layout = sharding.param_shardings(abstract, mesh, table)
    everywhere = NamedSharding(mesh, P())
    cut = jit(
        step,
        in_shardings=(layout, sharding.batch_sharding(mesh, table)),
        out_shardings=(layout, everywhere),
    )
    cut_grads, cut_terms = jax.device_get(cut(params, batch))
    # Rounding of the features, some ulp, in logits that are 1 / temperature = 14 times as large.
    rounding = 8 * ULP / 0.07
    for key in terms:
        np.testing.assert_allclose(cut_terms[key], terms[key], rtol=rounding, err_msg=key)
    ours = flatten(cut_grads)
    for path, value in flatten(grads).items():
        error = np.linalg.norm(ours[path] - value) / max(np.linalg.norm(value), 1e-5)
        assert error < 2 * rounding, f"{path}: {error}"


@pytest.mark.parametrize("name", ["bi_irra", "ivt"])
def test_match_logits_are_float32_under_bfloat16(name):
    """In bfloat16 a thousand candidates would fall on a few hundred scores: ties decide ranks."""
    method = get_method(name)
    changes = {} if name == "bi_irra" else {"levels": ("sentence",), "mask": "none"}
    config = method.config.tiny(losses=("itc", "itm"), **changes)
    graphdef, abstract, init = define_model(method, config, ComputePolicy(compute=jnp.bfloat16))
    model = nnx.merge(graphdef, init(jax.random.key(0)))
    tokens = jax.random.normal(jax.random.key(1), (1000, config.width), jnp.bfloat16)
    logits = model.itm_head(tokens)[:, 1]
    assert logits.dtype == jnp.float32 and len(np.unique(logits)) > 990
