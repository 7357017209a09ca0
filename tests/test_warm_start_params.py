"""Bi-IRRA runs that mask images and runs that do not exchange parameters."""

import jax
import numpy as np
import pytest
from test_rerank_evaluation import make_config

from tipr_jax import checkpoints, experiment
from tipr_jax.pretrained.key_table import flatten
from tipr_jax.train_state import select_params

MASK = "image_encoder/mask_embed"


def build(*losses: str, init_from: str = ""):
    config = make_config(k=0)
    config.model.losses, config.init_from = losses, init_from
    return experiment.build(config, devices=jax.devices()[:1])


@pytest.fixture(scope="module", params=[("itc",), ("itc", "itm", "mim")], ids="-".join)
def start(request, tmp_path_factory):
    """(directory, parameters) of a model of ones, with these losses."""
    exp = build(*request.param)
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), exp.abstract_params)
    directory = tmp_path_factory.mktemp("start") / "model"
    checkpoints.save_params(directory, params, {"method": "bi_irra", "model": {}})
    return directory, params


@pytest.mark.parametrize("losses", [("itc",), ("itc", "itm", "mim")], ids="-".join)
def test_every_shared_parameter_comes_from_the_start(start, losses):
    directory, given = start
    params = jax.device_get(experiment.initial_params(build(*losses, init_from=str(directory))))
    found, given = flatten(params), flatten(given)
    assert (MASK in found) == ("mim" in losses)
    fresh = {k for k in found if k not in given}
    assert fresh <= {MASK} | {k for k in found if k.startswith(("fusion", "itm_head", "mim_head"))}
    assert all(np.all(found[k] == 1) for k in found if k in given)
    if MASK in fresh:
        assert 0 < np.abs(found[MASK]).max() < 0.1


def test_evaluation_leaves_the_training_parameters_out(start, tmp_path):
    directory, given = start
    exp = build("itc", init_from=str(directory))
    _, params = experiment.trained_towers(exp, tmp_path)
    assert MASK not in flatten(params)
    assert set(flatten(params)) <= set(flatten(given))


def test_a_missing_parameter_is_still_an_error(start):
    _, given = start
    exp = build("itc")
    broken = given | {"image_encoder": select_params(given["image_encoder"], {"blocks": {}})}
    fresh = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), exp.abstract_params)
    with pytest.raises(ValueError, match="image_encoder/.* nothing given"):
        experiment.overlay(fresh, broken, "here")
