"""The same global batch gives the same losses and updates on every mesh, under every rules."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from machine import ULP

from configs import irra
from tipr_jax import experiment, sharding, trainer
from tipr_jax.batch import synthetic_batch
from tipr_jax.train_state import create_state

LOSSES = ("sdm", "id", "mlm", "itc", "cmpm")


def make_config():
    config = irra.get_config("debug")
    config.model.losses = LOSSES
    config.model.vision_width = config.model.text_width = config.model.embed_dim = 128
    config.model.vocab_size = 512
    config.data.image_size = (32, 16)
    config.data.text_length = 16
    config.data.batch_size = 16
    config.optimizer.name, config.optimizer.eps = "sgd", 1e-8
    config.optimizer.learning_rate = 0.01
    config.schedule.num_epochs = 2
    return config


def two_steps(config, devices=None):
    """(metrics of the second step, parameters after it), as numpy."""
    exp = experiment.build(config, devices=devices, num_persons=8)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=10)
    abstract = experiment.abstract_state(exp, optimizer)
    step = trainer.jit_train_step(exp, optimizer, abstract)
    layout = jax.tree.map(lambda x: x.sharding, abstract)
    state = jax.device_put(create_state(experiment.initial_params(exp), optimizer), layout)
    batch = synthetic_batch(16, (32, 16), 16, vocab_size=512, num_persons=8)
    batch["valid"][-3:] = False
    for _ in range(2):
        state, metrics = step(state, sharding.put_batch(batch, exp.batch_sharding))
    return jax.device_get((metrics, state.params))


@pytest.fixture(scope="module")
def one_device():
    return two_steps(make_config(), jax.devices()[:1])


@pytest.mark.parametrize(
    "rules, shape",
    [
        ("data_parallel", (8, 1)),
        ("fully_sharded", (8, 1)),
        ("fully_sharded", (2, 4)),
        ("tensor_parallel", (4, 2)),
        ("tensor_parallel", (2, 4)),
    ],
)
@pytest.mark.slow
def test_mesh_changes_nothing(one_device, rules, shape):
    config = make_config()
    config.mesh.data, config.mesh.model = shape
    config.mesh.rules = rules
    metrics, params = two_steps(config)
    # Other orders of summation round cosines otherwise by some ulp. Logits are 1 / temperature = 50
    # times as large, and a probability, a gradient or a loss changes by what its logits change.
    rounding = 4 * ULP * 50
    for name, value in one_device[0].items():
        rtol = 4 * rounding if name == "grad_norm" else rounding  # of many gradients
        np.testing.assert_allclose(metrics[name], value, rtol=rtol, atol=1e-6, err_msg=name)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(one_device[1]), strict=True
    ):
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-6)
        assert error < rounding, f"{jax.tree_util.keystr(path)}: {error}"


def test_rules_place_parameters_where_they_say():
    config = make_config()
    config.mesh.data, config.mesh.model = 4, 2
    specs = {}
    for rules in sharding.RULES:
        config.mesh.rules = rules
        exp = experiment.build(config, num_persons=8)
        attention = exp.param_shardings["image_encoder"]["blocks"]["attn"]["qkv"]["kernel"]
        specs[rules] = attention.spec
    assert specs["data_parallel"] == P(None, None, None, None, None)
    assert specs["fully_sharded"] == P(None, ("data", "model"), None, None, None)
    assert specs["tensor_parallel"] == P(None, None, None, "model", None)


@pytest.mark.parametrize("rules", sharding.RULES)
def test_rows_find_their_devices_in_any_order(rules):
    """A mesh may order the devices as it likes; the global array keeps the order of the rows."""
    devices = np.array(jax.devices())[[5, 0, 3, 6, 1, 7, 2, 4]].reshape(4, 2)
    mesh = jax.sharding.Mesh(devices, ("data", "model"))
    place = sharding.batch_sharding(mesh, sharding.RULES[rules])
    x = np.arange(16 * 3).reshape(16, 3)
    rows = sharding.process_rows(place, 16)
    put = sharding.put_batch({"x": x[rows]}, place)["x"]
    np.testing.assert_array_equal(put, x)
    assert put.sharding == place


def test_a_process_feeds_the_rows_of_its_devices(monkeypatch):
    """As if this process had devices 2 and 5 alone; with tensor parallelism it shares rows."""
    mesh = sharding.make_mesh(4, 2)
    own = {mesh.devices[1, 0], mesh.devices[2, 1]}

    def addressable(self, shape):
        return {d: i for d, i in self.devices_indices_map(shape).items() if d in own}

    cls = jax.sharding.NamedSharding
    monkeypatch.setattr(cls, "addressable_devices_indices_map", addressable)
    sharding._own_pieces.cache_clear()
    for rules, rows in (("data_parallel", [4, 5, 10, 11]), ("tensor_parallel", [*range(4, 12)])):
        place = sharding.batch_sharding(mesh, sharding.RULES[rules])
        assert sharding.process_rows(place, 16).tolist() == rows
    sharding._own_pieces.cache_clear()


def test_sizes_that_do_not_divide_stay_whole():
    mesh = sharding.make_mesh(4, 2)
    rules = sharding.RULES["tensor_parallel"]
    assert sharding.mesh_spec((sharding.VOCAB,), (11,), mesh, rules) == P(None)
    assert sharding.mesh_spec((sharding.VOCAB,), (12,), mesh, rules) == P("model")


def test_moments_are_laid_out_like_their_parameters():
    config = make_config()
    config.optimizer.name = "adam"
    config.mesh.rules = "fully_sharded"
    exp = experiment.build(config, num_persons=8)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=10)
    state = experiment.abstract_state(exp, optimizer)
    sharded = [x for x in jax.tree.leaves(state.opt_state) if x.sharding.spec not in (P(), P(None))]
    assert len(sharded) > 20, "the optimiser's moments are replicated"
