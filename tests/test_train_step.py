"""Micro-batches give the step of the full batch, on one device and on eight, or refuse clearly."""

import dataclasses
import functools
import re

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from configs import irra as irra_config
from tipr_jax import experiment, sharding
from tipr_jax.batch import synthetic_batch
from tipr_jax.models import get_method
from tipr_jax.models.irra import Config
from tipr_jax.precision import ComputePolicy
from tipr_jax.train_state import create_state, define_model
from tipr_jax.train_step import check_micro_batches, make_train_step

CONFIG = Config.tiny(
    losses=("sdm", "id", "mlm", "itc", "cmpm"),
    vision_depth=1,
    text_depth=1,
    learn_temperature=True,
    image_id_factor=0.3,
    augment=False,
)


def make_batch() -> dict[str, np.ndarray]:
    sizes = {"vocab_size": CONFIG.vocab_size, "num_persons": CONFIG.num_persons}
    batch = synthetic_batch(32, CONFIG.image_size, CONFIG.text_length, **sizes)
    batch["image_id"] //= 2
    batch["valid"][-3:] = False
    return batch


@functools.cache
def compiled_step(micro_batches: int, config: Config = CONFIG, devices: int = 1):
    """(compiled step, state, sharding of the batch); SGD at rate 1: the update is the gradient."""
    axes = ("data", "model"), (AxisType.Auto,) * 2
    mesh = jax.make_mesh((devices, 1), axes[0], devices=jax.devices()[:devices], axis_types=axes[1])
    rows = sharding.batch_sharding(mesh, sharding.RULES["data_parallel"])
    whole = sharding.replicated(mesh)
    graphdef, _, init = define_model(get_method("irra"), config, ComputePolicy())
    optimizer = optax.sgd(1.0)
    step = make_train_step(
        get_method("irra"), config, graphdef, optimizer, jax.random.key(1), micro_batches
    )
    state = create_state(jax.jit(init, out_shardings=whole)(jax.random.key(0)), optimizer)
    step = jax.jit(step, in_shardings=(whole, rows), out_shardings=whole)
    return step.lower(state, sharding.put_batch(make_batch(), rows)).compile(), state, rows


def one_step(batch: dict, *arguments):
    """(gradients, metrics) of one step."""
    step, state, rows = compiled_step(*arguments)
    after, metrics = step(state, sharding.put_batch(batch, rows))
    return jax.tree.map(lambda a, b: np.asarray(a - b), state.params, after.params), metrics


def assert_same(ours, want, tolerance: float = 1e-5) -> None:
    (grads, metrics), (want_grads, want_metrics) = ours, want
    assert set(metrics) == set(want_metrics)
    for name, value in want_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(want_grads))
    for (path, want), grad in zip(
        jax.tree.leaves_with_path(want_grads), jax.tree.leaves(grads), strict=True
    ):
        name, error = jax.tree_util.keystr(path), np.linalg.norm(grad - want)
        # The gradient of a key's bias is zero up to rounding.
        assert error <= tolerance * np.linalg.norm(want) + 1e-6 * largest, f"{name}: {error}"


# Eight devices add up in another order, with micro-batches or without.
@pytest.mark.parametrize("micro_batches, devices, tolerance", [(2, 1, 1e-5), (4, 8, 5e-5)])
def test_gradients_and_metrics_of_the_full_batch(micro_batches, devices, tolerance):
    ours = one_step(make_batch(), micro_batches, CONFIG, devices)
    assert_same(ours, one_step(make_batch(), 1, CONFIG), tolerance)


def test_micro_batch_without_a_masked_word():
    batch = make_batch()
    batch["valid"][1::2] = False  # padding rows have none: the second of two micro-batches
    ours = one_step(batch, 2, CONFIG)
    assert_same(ours, one_step(batch, 1, CONFIG))
    assert all(np.isfinite(value) for value in ours[1].values())


@pytest.mark.parametrize("losses", [("itc",), ("mlm",)])
def test_terms_of_the_batch_or_of_the_rows_alone(losses):
    """And clean captions: the masked ones take a text pass of their own."""
    config = dataclasses.replace(
        CONFIG, losses=losses, learn_temperature=False, mask_caption_ids=False
    )
    assert_same(one_step(make_batch(), 4, config), one_step(make_batch(), 1, config))


def test_images_stay_on_their_device():
    """No collective of the step moves an array of image size."""
    height, width = CONFIG.image_size
    lines = compiled_step(4, CONFIG, 8)[0].as_text().splitlines()
    collective = re.compile(r" (all-gather|all-to-all|collective-permute|all-reduce)(-start)?\(")
    moved = [line for line in lines if collective.search(line)]
    assert moved and not any(f"{height},{width},3]" in line for line in moved)


def test_refusals():
    with pytest.raises(ValueError, match="batch_size 48 is not divisible by 4 micro-batches x 8"):
        check_micro_batches(get_method("irra"), 4, 48, 8)
    with pytest.raises(ValueError, match="micro_batches is 0"):
        check_micro_batches(get_method("irra"), 0)
    with pytest.raises(ValueError, match="in one piece"):
        check_micro_batches(dataclasses.replace(get_method("irra"), parts=None), 2)
    config = irra_config.get_config("debug")
    config.micro_batches = 3
    with pytest.raises(ValueError, match="3 micro-batches"):
        experiment.build(config, num_persons=8)
    with pytest.raises(ValueError, match="no loss term"):
        compiled_step(2, Config.tiny(losses=()))
