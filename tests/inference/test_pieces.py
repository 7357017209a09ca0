"""Encoders on a CPU read parameters in pieces: no layer is copied, and no feature changes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import bi_irra, irra, ivt, rde
from tipr_jax import experiment
from tipr_jax.batch import synthetic_batch
from tipr_jax.inference.encoders import Encoders, Functions
from tipr_jax.inference.pieces import Cut, cuts
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy
from tipr_jax.train_state import define_model, select_params

PAPERS = {"bi_irra": bi_irra, "irra": irra, "ivt": ivt, "rde": rde}
LAYERS = 6  # a stack of few layers is compiled without a loop anyway


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 2), (1, 2)])
def test_pieces_and_back(axes):
    array = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    pieces = Cut(axes).pieces(array)
    shape = tuple(size for axis, size in enumerate(array.shape) if axis not in axes)
    assert {piece.shape for piece in jax.tree.leaves(pieces)} == {shape}
    np.testing.assert_array_equal(Cut(axes).whole(pieces), array)


def test_whole_parameters_are_refused():
    exp = experiment.for_inference(build("irra"))
    params, encoders = experiment.initial_params(exp), Encoders.of_experiment(exp)
    with pytest.raises(TypeError, match="pieces along the axes.*`Encoders.select`"):
        encoders.encode_image(params, encoders.put_rows(images_and_texts(exp))["image"])


def test_layers_and_parts_are_cut():
    exp = build("irra")
    found = flatten(cuts(define_model(exp.method, exp.model_config, ComputePolicy())[1]))
    assert found["image_encoder/blocks/attn/qkv/kernel"] == Cut((0, 2))
    assert found["image_encoder/blocks/attn/qkv/bias"] == Cut((0, 1))
    assert found["text_encoder/blocks/ln_1/scale"] == Cut((0,))
    assert found["image_encoder/pos_embed"] == found["text_encoder/ln_final/bias"] == Cut()


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_same_features_and_no_array_of_several_layers(paper):
    exp = build(paper)
    params, encoders = experiment.initial_params(exp), Encoders.of_experiment(exp)
    graphdef, abstract, _ = define_model(exp.method, encoders.config, ComputePolicy())
    whole, pieces = select_params(params, nnx.to_pure_dict(abstract)), encoders.select(params)
    functions, batch = Functions(graphdef, jnp.float32), encoders.put_rows(images_and_texts(exp))
    plain = functions.encode_image(whole, batch["image"])
    np.testing.assert_allclose(encoders.encode_image(pieces, batch["image"]), plain, atol=2e-5)
    plain = functions.encode_text(whole, batch["text_ids"], 0)
    np.testing.assert_allclose(encoders.encode_text(pieces, batch["text_ids"], 0), plain, atol=2e-5)

    stacks = {x.shape for path, x in flatten(whole).items() if "blocks" in path and x.ndim > 2}
    assert stacks and all(shape[0] == LAYERS for shape in stacks)
    for compiled in (
        encoders.encode_image.lower(pieces, batch["image"]).compile(),
        encoders.encode_text.lower(pieces, batch["text_ids"], 0).compile(),
    ):
        program = compiled.as_text()
        for _, *layer in stacks:
            several = rf"f32\[({LAYERS}|{LAYERS - 1}),{','.join(map(str, layer))}\]"
            assert not re.search(several, program)


def test_a_loaded_model_gives_its_parameters_whole():
    exp = build("irra")
    params, encoders = experiment.initial_params(exp), Encoders.of_experiment(exp)
    arrays = jax.tree.map(np.asarray, params)
    given, back = map(flatten, (arrays, encoders.whole_params(encoders.put(arrays))))
    assert set(back) == set(flatten(experiment.for_inference(exp).abstract_params))
    for path, array in back.items():
        np.testing.assert_array_equal(array, given[path], strict=True)


def build(paper: str) -> experiment.Experiment:
    config = PAPERS[paper].get_config("debug")
    for field in config.model:
        if field.endswith("depth"):
            config.model[field] = LAYERS
    return experiment.build(config)


def images_and_texts(exp: experiment.Experiment) -> dict[str, np.ndarray]:
    config = exp.model_config
    size = (exp.config.data.batch_size, config.image_size, config.text_length)
    batch = synthetic_batch(*size, vocab_size=config.vocab_size, num_persons=4)
    return {name: batch[name] for name in ("image", "text_ids")}
