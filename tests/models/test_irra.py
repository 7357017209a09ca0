"""IRRA: the masked-word head on labelled rows, one text pass for two, clean captions."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tipr_jax import sharding
from tipr_jax.batch import synthetic_batch
from tipr_jax.losses.classification import cross_entropy
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config, mlm_terms, objective, prepare_inputs
from tipr_jax.precision import ComputePolicy
from tipr_jax.train_state import define_model
from tipr_jax.train_step import total_loss


@pytest.fixture(scope="module")
def tiny():
    config = Config.tiny(augment=False)
    graphdef, _, init = define_model(get_method("irra"), config, ComputePolicy())
    sizes = {"vocab_size": config.vocab_size, "num_persons": config.num_persons}
    batch = synthetic_batch(6, config.image_size, config.text_length, **sizes)
    return config, graphdef, jax.jit(init)(jax.random.key(0)), batch


def close(a, b) -> None:
    """Equal up to the rounding of sums in another order."""

    def leaf(x: jax.Array, y: jax.Array) -> None:
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(y))) + 1e-7)

    jax.tree.map(leaf, a, b)


@pytest.mark.parametrize("group", [2, 8])
def test_gathered_rows_equal_all_rows(tiny, group):
    """The head on labelled positions only, 0, 5 and 40 of 96, in as many passes as it takes.

    In groups of two captions, or one group because eight do not divide six.
    """
    config, graphdef, params, batch = tiny
    config = dataclasses.replace(config, mlm_group=group, mlm_rows=0.125)
    rng = np.random.default_rng(0)
    shape = batch["text_ids"].shape
    tokens = jnp.asarray(rng.normal(size=(*shape, config.embed_dim)), jnp.float32)
    image = jnp.asarray(rng.normal(size=(shape[0], 9, config.embed_dim)), jnp.float32)

    def gathered(params, tokens, labels):
        model = nnx.merge(graphdef, params)
        terms = mlm_terms(model, tokens, image, labels, config, jnp.sum(labels != 0))
        return terms["mlm_loss"], terms["mlm_accuracy"]

    def all_rows(params, tokens, labels):
        model = nnx.merge(graphdef, params)
        logits = model.mlm_head(model.fusion(tokens, image))
        return cross_entropy(logits, labels, labels != 0)

    ours, all_of_them = (
        jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True)) for f in (gathered, all_rows)
    )
    for labelled in (0, 5, 40):
        places = shape[1] if labelled == 5 else np.prod(shape)
        labels = np.zeros(np.prod(shape), np.int32)
        labels[rng.choice(places, labelled, replace=False)] = rng.integers(1, 125, labelled)
        labels = jnp.asarray(labels.reshape(shape))
        got = ours(params, tokens, labels)
        close(got, all_of_them(params, tokens, labels))
        assert (float(got[0][0]) > 0) == (labelled > 0)


def test_head_is_cut_with_the_batch(tiny):
    """On eight devices each runs the vocabulary head on its own captions' labels only."""
    config = dataclasses.replace(tiny[0], vocab_size=1000)
    graphdef, _, init = define_model(get_method("irra"), config, ComputePolicy())
    mesh = sharding.make_mesh()
    rows = sharding.batch_sharding(mesh, sharding.RULES["data_parallel"])
    whole = sharding.replicated(mesh)

    def loss(params, tokens, image, labels):
        model, total = nnx.merge(graphdef, params), jnp.sum(labels != 0)
        return mlm_terms(model, tokens, image, labels, config, total)["mlm_loss"]

    step = jax.jit(jax.grad(loss, (0, 1)), in_shardings=(whole, rows, rows, rows))
    arrays = [jax.ShapeDtypeStruct((64, n, config.embed_dim), jnp.float32) for n in (16, 9)]
    labels = jax.ShapeDtypeStruct((64, 16), jnp.int32)
    abstract = jax.eval_shape(init, jax.random.key(0))
    text = step.lower(abstract, *arrays, labels).compile().as_text()
    in_a_pass = math.ceil(config.mlm_rows * config.mlm_group * 16)
    logits = re.findall(r"f32\[([\d,]+),1000\]\S* dot\(", text)
    heights = {math.prod(int(n) for n in sizes.split(",")) for sizes in logits}
    assert heights - {config.embed_dim, 1} == {in_a_pass}
    assert "all-gather" not in text


def test_one_text_pass_equals_two(tiny):
    """With shared masked captions one pass gives the value and the gradients of two."""
    config, graphdef, params, batch = tiny
    inputs = prepare_inputs(jax.tree.map(jnp.asarray, batch), jax.random.key(3), config)
    np.testing.assert_array_equal(inputs["caption_ids"], inputs["mlm_ids"])

    def total(params, config):
        return total_loss(objective(nnx.merge(graphdef, params), inputs, config))

    step = jax.jit(jax.value_and_grad(total), static_argnums=1)
    close(step(params, config), step(params, dataclasses.replace(config, mask_caption_ids=False)))


def test_paper_setting_keeps_captions_clean(tiny):
    config, _, _, batch = tiny
    paper = dataclasses.replace(config, mask_caption_ids=False)
    inputs = prepare_inputs(jax.tree.map(jnp.asarray, batch), jax.random.key(3), paper)
    np.testing.assert_array_equal(inputs["caption_ids"], batch["text_ids"])
    assert np.any(inputs["mlm_ids"] != batch["text_ids"])
