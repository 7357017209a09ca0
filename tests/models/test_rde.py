"""RDE: which tokens are selected, whose statistics and losses count, what divides the pairs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import rde as configs
from tipr_jax import experiment
from tipr_jax.batch import synthetic_batch
from tipr_jax.losses import per_pair
from tipr_jax.losses.contrastive import itc_loss, l2_normalise, sdm_loss
from tipr_jax.models import get_method
from tipr_jax.models.rde import METHOD, Config, division
from tipr_jax.models.rde.division import CLEAN, PROBABILITY, divide
from tipr_jax.models.rde.model import select_patches, select_words
from tipr_jax.models.rde.objective import change_words, objective, prepare_inputs, score
from tipr_jax.precision import ComputePolicy
from tipr_jax.train_state import count_parameters, define_model, join, split, statistics_of, trained

MASK = 125


@pytest.fixture(scope="module")
def tiny():
    config = Config.tiny(augment=False, augment_text=False)
    graphdef, _, init = define_model(get_method("rde"), config, ComputePolicy())
    sizes = {"vocab_size": config.vocab_size, "num_persons": 4}
    batch = synthetic_batch(8, config.image_size, config.text_length, **sizes)
    batch[CLEAN] = np.ones(8, np.float32)
    inputs = prepare_inputs(jax.tree.map(jnp.asarray, batch), jax.random.key(1), config)
    return config, graphdef, jax.jit(init)(jax.random.key(0)), inputs


def terms_and_statistics(tiny, inputs, **changes) -> tuple[dict, dict]:
    config, graphdef, weights, _ = tiny
    config = dataclasses.replace(config, **changes)

    @jax.jit
    def run(weights):
        model = nnx.merge(graphdef, weights)
        return objective(model, inputs, config), statistics_of(model)

    return run(weights)


def test_the_class_token_is_never_selected():
    attention = jnp.array([[0.9, 0.02, 0.05, 0.03], [0.1, 0.3, 0.3, 0.3]])
    # Of equal weights the lower place comes first.
    np.testing.assert_array_equal(select_patches(attention, 2), [[2, 3], [1, 2]])
    assert 0 not in np.asarray(select_patches(attention, 3))


def test_marks_and_padding_are_no_words():
    """Start and end come last, padding behind the words, an id 0 in a caption is padding."""
    ids = jnp.array(
        [[126, 5, 6, 7, 127, 0, 0], [126, 5, 0, 7, 127, 0, 0], [126, 9, 127, 0, 0, 0, 0]]
    )
    attention = jnp.tile(jnp.array([0.4, 0.1, 0.2, 0.05, 0.25, 0.0, 0.0]), (3, 1))
    places, count = select_words(attention, ids, 3)
    np.testing.assert_array_equal(count, [3, 2, 1])
    chosen = [row[:n].tolist() for row, n in zip(np.asarray(places), count, strict=True)]
    assert chosen == [[2, 1, 3], [1, 3], [1]]
    assert not np.isin(np.asarray(places), [0]).any() and 4 not in np.asarray(places)[0]


@pytest.mark.parametrize("words", [(), (0,), (0, 0, 0)])
def test_a_caption_without_a_word_spoils_nothing(tiny, words):
    """In the release its batch becomes NaN."""
    config, graphdef, weights, inputs = tiny
    ids = np.asarray(inputs["text_ids"]).copy()
    ids[2] = 0
    ids[2, : len(words) + 2] = [126, *words, 127]
    model = nnx.merge(graphdef, weights)
    encode = jax.jit(lambda x: model.encode_text(x))
    with_empty, without = encode(jnp.asarray(ids)), encode(inputs["text_ids"])
    assert np.isfinite(with_empty).all()
    others = np.arange(8) != 2
    np.testing.assert_allclose(with_empty[others], without[others], atol=1e-6)
    terms, _ = terms_and_statistics(tiny, inputs | {"text_ids": jnp.asarray(ids)})
    assert np.isfinite([terms["bge_loss"], terms["tse_loss"]]).all()


@pytest.mark.parametrize(
    "loss, mode", [("tal", "batch"), ("tal", "frozen"), ("trl", "frozen"), ("infonce", "batch"),
                   ("sdm", "batch")],
)  # fmt: skip
def test_padding_rows_change_nothing(tiny, loss, mode):
    """Neither losses nor statistics: a padded batch gives what its real rows give alone."""
    config, graphdef, weights, inputs = tiny
    real = jax.tree.map(lambda x: x[:5], inputs)
    padded = inputs | {"valid": jnp.arange(8) < 5, "person_id": inputs["person_id"].at[5:].set(-1)}
    changes = {"batch_norm": mode, "losses": (loss,)}
    for ours, alone in zip(
        terms_and_statistics(tiny, padded, **changes),
        terms_and_statistics(tiny, real, **changes),
        strict=True,
    ):
        for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6)


def test_frozen_statistics_stay_and_are_read(tiny):
    config, graphdef, weights, inputs = tiny
    _, before = split(weights, trained(define_model(METHOD, config, ComputePolicy())[1]))
    frozen, after = terms_and_statistics(tiny, inputs)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    batch, after = terms_and_statistics(tiny, inputs, batch_norm="batch")
    assert all(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (after, before)), strict=True))
    assert float(batch["bge_loss"]) == pytest.approx(float(frozen["bge_loss"]))  # it has no norm
    assert abs(float(batch["tse_loss"] - frozen["tse_loss"])) > 1e-3
    params, _ = split(weights, trained(define_model(METHOD, config, ComputePolicy())[1]))
    merged = join(params, jax.tree.map(lambda x: x + 0.5, before))
    other, _ = terms_and_statistics((config, graphdef, merged, inputs), inputs)
    assert abs(float(other["tse_loss"] - frozen["tse_loss"])) > 1e-3


@pytest.mark.parametrize("loss", ["tal", "trl"])
def test_noisy_pairs_have_no_loss_but_are_negatives(tiny, loss):
    config, graphdef, weights, inputs = tiny
    clean = jnp.array([1, 0, 1, 1, 0, 1, 1, 1.0])
    inputs = inputs | {"person_id": jnp.arange(8)}  # everybody is a negative of everybody else
    config = dataclasses.replace(config, losses=(loss,))
    each = jax.jit(score, static_argnums=2)(nnx.merge(graphdef, weights), inputs, config)
    terms, _ = terms_and_statistics(tiny, inputs | {CLEAN: clean}, losses=(loss,))
    for name in ("bge", "tse"):
        assert float(terms[f"{name}_loss"]) == pytest.approx(float(each[name] @ clean), rel=1e-5)
    fewer = jax.tree.map(lambda x: x[clean > 0], inputs)
    without, _ = terms_and_statistics(tiny, fewer, losses=(loss,))
    assert float(without["bge_loss"]) < float(terms["bge_loss"])
    assert float(terms["clean_share"]) == 0.75


@pytest.mark.parametrize("loss", ["tal", "trl", "infonce", "sdm"])
def test_a_batch_of_noisy_pairs_gives_no_gradient(tiny, loss):
    config, graphdef, weights, inputs = tiny
    config = dataclasses.replace(config, losses=(loss,))
    params, statistics = split(weights, trained(define_model(METHOD, config, ComputePolicy())[1]))

    @jax.jit
    @jax.grad
    def gradient(params):
        model = nnx.merge(graphdef, join(params, statistics))
        terms = objective(model, inputs | {CLEAN: jnp.zeros(8)}, config)
        return terms["bge_loss"] + terms["tse_loss"]

    assert all(not np.any(x) for x in jax.tree.leaves(gradient(params)))


def test_losses_of_pairs_have_the_means_of_the_batch_losses():
    rng = np.random.default_rng(0)
    image, text = (jnp.asarray(rng.normal(size=(7, 16)), jnp.float32) for _ in range(2))
    ids, valid = jnp.array([0, 1, 1, 2, 3, 0, -1]), jnp.arange(7) < 6
    each = per_pair.sdm(image, text, ids, valid, logit_scale=20.0)
    whole = sdm_loss(image, text, ids, logit_scale=20.0, valid=valid)
    assert float(each[:6].mean()) == pytest.approx(float(whole), rel=1e-5)
    each = per_pair.infonce(image, text, valid, logit_scale=20.0)
    whole = itc_loss(image, text, logit_scale=20.0, valid=valid)
    assert float(each[:6].mean()) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("tau", [1e-4, 0.005, 0.015])
def test_tal_of_any_temperature_is_finite(tau):
    """The release overflows below 0.0113; with tau towards 0 the hardest negative remains."""
    rng = np.random.default_rng(1)
    features = jnp.asarray(rng.normal(size=(2, 9, 8)), jnp.float32)
    ids, valid = jnp.arange(9) // 2, jnp.ones(9, bool)

    def loss(image, text):
        return per_pair.tal(image, text, ids, valid, tau=tau, margin=0.1).sum()

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(*features)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)
    if tau < 1e-3:
        scores = np.asarray(l2_normalise(features[1]) @ l2_normalise(features[0]).T)
        same = np.asarray(ids[:, None] == ids)
        # The weights of the positives go to the nearest one, too.
        hinge = lambda s: np.maximum(  # noqa: E731
            0, 0.1 - np.where(same, s, -9).max(1) + np.where(same, -9, s).max(1)
        )
        assert float(value) == pytest.approx((hinge(scores) + hinge(scores.T)).sum(), abs=0.02)


def test_the_mean_similarity_is_one_cosine(tiny):
    """Global, token-selection and joint vectors; the joint cosine is the mean of the two."""
    config, graphdef, weights, inputs = tiny
    image = jnp.asarray(np.random.default_rng(2).integers(0, 256, (8, 32, 16, 3)), jnp.uint8)
    cosine = {}
    for kind in ("bge", "tse", "mean"):
        changed = dataclasses.replace(config, similarity=kind)
        model = nnx.merge(define_model(METHOD, changed, ComputePolicy())[0], weights)
        i, t = model.encode_image(image), model.encode_text(inputs["text_ids"])
        assert i.shape[1] == {"bge": 64, "tse": 64, "mean": 128}[kind]
        cosine[kind] = np.asarray(l2_normalise(t) @ l2_normalise(i).T)
    np.testing.assert_allclose(cosine["mean"], (cosine["bge"] + cosine["tse"]) / 2, atol=1e-6)


def test_changed_words():
    ids = jnp.array([[126, 5, 6, 7, 8, 127, 0, 0]])
    other = jnp.full(ids.shape, 99)
    never = jnp.full(ids.shape, 0.2)
    np.testing.assert_array_equal(change_words(ids, never, other, MASK), ids)
    draws = jnp.array([[0.0, 0.119, 0.121, 0.161, 0.5, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(
        change_words(ids, draws, other, MASK), [[126, MASK, 99, 8, 127, 0, 0, 0]]
    )
    removed = change_words(ids, jnp.full(ids.shape, 0.19), other, MASK)
    np.testing.assert_array_equal(removed, [[126, 127, 0, 0, 0, 0, 0, 0]])
    full = jnp.array([[126, 5, 6, 127]])
    np.testing.assert_array_equal(
        change_words(full, jnp.array([[0.9, 0.19, 0.9, 0.9]]), full, MASK), [[126, 6, 127, 0]]
    )


def test_augmentation_is_a_function_of_the_key(tiny):
    config = dataclasses.replace(tiny[0], augment=True, augment_text=True)
    sizes = {"vocab_size": config.vocab_size, "num_persons": 4}
    batch = synthetic_batch(8, config.image_size, config.text_length, **sizes)
    batch = jax.tree.map(jnp.asarray, batch | {CLEAN: np.ones(8, np.float32)})
    one, same, other = (prepare_inputs(batch, jax.random.key(k), config) for k in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert np.any(one["text_ids"] != other["text_ids"]) and np.any(one["image"] != other["image"])


def two_groups(wrong: int = 40, count: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    losses = rng.normal(0.3, 0.1, count)
    losses[:wrong] += 1.0
    return {
        name: (losses + rng.normal(0, 0.02, count)).astype(np.float32) for name in ("bge", "tse")
    }


@pytest.mark.parametrize("rounds", ["loose", "tight"])
def test_division_finds_two_groups(rounds):
    found = divide(two_groups(), 0, 1, Config(division=rounds))
    np.testing.assert_array_equal(found[CLEAN], np.arange(200) >= 40)
    assert found[PROBABILITY].shape == (200, 2)
    assert found[PROBABILITY][:40].max() < 0.5 < found[PROBABILITY][40:].min()


def test_division_without_noise_still_calls_some_pairs_noisy():
    """All posteriors above 0.5: the lowest hundredth is noisy, released."""
    probability = np.linspace(0.6, 0.9, 300)
    np.testing.assert_array_equal(division.is_clean(probability), np.arange(300) > 3)


def uncertain_losses() -> dict[str, np.ndarray]:
    losses = two_groups()
    losses["tse"] = losses["tse"].copy()
    losses["tse"][:20] -= 1.0  # the first half of the wrong pairs: one embedding calls them clean
    return losses


def test_coins_belong_to_pairs_and_epochs():
    losses, config = uncertain_losses(), Config()
    first, again, second, seed = (
        divide(losses, epoch, s, config)[CLEAN] for epoch, s in ((0, 1), (0, 1), (1, 1), (0, 2))
    )
    np.testing.assert_array_equal(first, again)
    for other in (second, seed):
        assert np.any(other[:20] != first[:20])
        np.testing.assert_array_equal(other[20:], first[20:])
    assert 0 < first[:20].sum() < 20
    # One uncertain pair less moves no other pair's coin.
    losses["tse"][0] = losses["bge"][0]
    np.testing.assert_array_equal(divide(losses, 0, 1, config)[CLEAN][1:], first[1:])


def test_nothing_to_divide():
    same = {name: np.full(10, 0.7, np.float32) for name in ("bge", "tse")}
    assert divide(same, 0, 1, Config())[CLEAN].all()
    one = {name: np.ones(1, np.float32) for name in ("bge", "tse")}
    assert divide(one, 0, 1, Config())[CLEAN].all()
    assert divide(two_groups(), 0, 1, Config(division="none"))[CLEAN].all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_losses_that_are_not_finite_are_named(value):
    losses = two_groups()
    losses["tse"][7] = value
    with pytest.raises(ValueError, match="before epoch 3, 1 of 200 pairs have a tse loss"):
        divide(losses, 2, 1, Config())


def test_the_state_begins_with_clean_pairs():
    hook = METHOD.epoch_hook
    assert hook is not None
    columns, found = hook.arrays(Config()), divide(two_groups(), 0, 1, Config())
    assert columns.keys() == found.keys()
    for name, column in columns.items():
        assert column.padding == 1 and found[name].shape[1:] == column.shape
        assert found[name].dtype == column.dtype


@pytest.mark.parametrize("variant", configs.VARIANTS)
def test_variant_builds(variant):
    config = configs.get_config(variant)
    exp = experiment.build(config)
    params = jax.eval_shape(exp.init, exp.keys[0])
    experiment.make_optimizer(exp, steps_per_epoch=10)
    assert count_parameters(params) > 0


def test_the_published_recipe():
    config = configs.get_config()
    exp = experiment.build(config)
    params = trained(exp.abstract)
    # 152,775,680 of the release without the 529,408 that nothing reads.
    assert count_parameters(params) == 152_775_680 - 529_408
    assert exp.model_config == Config()
    assert configs.get_config("rstp_reid").model.division == "tight"
    assert (exp.model_config.selected_patches, exp.model_config.selected_words) == (57, 22)
    with pytest.raises(ValueError, match="quickstart"):
        configs.get_config("quickstrat")


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("losses", ("tal", "id"), "expected one of .*infonce"),
        ("losses", ("tal+id",), "expected one of .*tal"),
        ("tau", 0.0, "positive"),
        ("temperature", -1.0, "positive"),
        ("batch_norm", "train", "frozen"),
        ("division", "0.5", "loose"),
        ("similarity", "both", "mean"),
        ("activation", "relu", "quick_gelu"),
        ("select_ratio", 1.5, "at most 1"),
        ("select_ratio", 0.001, "one of 192 patches"),
        ("tse_dim", 1023, "multiple of 2"),
        ("vision_width", 100, "multiple of 64"),
    ],
)
def test_wrong_values_are_explained(field, value, message):
    with pytest.raises(ValueError, match=message):
        Config(**{field: value})


def test_micro_batches_are_refused():
    config = configs.get_config("debug")
    config.micro_batches = 2
    with pytest.raises(ValueError, match="micro_batches=1"):
        experiment.build(config)
