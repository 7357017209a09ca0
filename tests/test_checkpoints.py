"""Saving, keeping, choosing and restoring checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tipr_jax import sharding
from tipr_jax.checkpoints import (
    Checkpoints,
    load_params,
    load_run_params,
    model_fields,
    save_params,
)
from tipr_jax.train_state import TrainState


def make_state(value: float = 1.0) -> TrainState:
    params = {"tower": {"kernel": jnp.full((8, 4), value), "bias": jnp.arange(4.0)}}
    return TrainState(jnp.int32(7), params, (jnp.zeros(3), {"m": jnp.ones(2)}))


def abstract(state, place=None):
    place = place or (lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), state)


def test_keeps_the_newest_and_the_earliest_best(tmp_path):
    with Checkpoints(tmp_path, keep_last=2) as c:
        for step, score in enumerate([None, 30.0, None, 30.0, None, 20.0, None], 1):
            c.save(step, make_state(step), score)
            c.wait()
        assert (c.best_step(), c.latest_step()) == (2, 7)
        assert sorted(int(p.name) for p in c.directory.iterdir() if p.name.isdigit()) == [2, 6, 7]
    step, params = load_run_params(tmp_path)
    assert step == 2
    np.testing.assert_array_equal(params["tower"]["kernel"], 2.0)


def test_restores_bit_exactly_onto_another_mesh(tmp_path):
    state = make_state(0.1)
    with Checkpoints(tmp_path) as c:
        c.save(1, state)
        c.wait()
        mesh = sharding.make_mesh(4, 2)

        def place(x):
            return NamedSharding(mesh, P("data") if x.ndim == 2 else P())

        step, restored = c.restore_latest(abstract(state, place))
    assert step == 1
    assert restored.params["tower"]["kernel"].sharding.spec == P("data")
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_a_damaged_step_is_set_aside_and_named(tmp_path, caplog):
    with Checkpoints(tmp_path) as c:
        c.save(1, make_state(1.0))
        c.save(2, make_state(2.0))
        c.wait()
        for file in (c.directory / "2" / "default" / "d").rglob("*"):
            file.write_bytes(b"")
        step, _ = c.restore_latest(abstract(make_state()))
        assert step == 1
        assert "checkpoints/2" in caplog.text and "unreadable_2" in caplog.text
        c.save(2, make_state(3.0))
        c.wait()
        assert c.latest_step() == 2


def test_a_step_without_its_commit_is_ignored(tmp_path):
    with Checkpoints(tmp_path) as c:
        c.save(1, make_state())
        c.wait()
        (c.directory / "2.orbax-checkpoint-tmp-1").mkdir()
    with Checkpoints(tmp_path) as c:
        assert c.latest_step() == 1


def test_another_model_is_an_error_with_names_and_shapes(tmp_path):
    other = make_state()
    other.params["tower"]["kernel"] = jnp.zeros((8, 5))
    with Checkpoints(tmp_path) as c:
        c.save(1, make_state())
        c.wait()
        with pytest.raises(ValueError, match=r"tower/kernel: saved \(8, 4\), configured \(8, 5\)"):
            c.restore_latest(abstract(other))


def test_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        load_run_params(tmp_path)


def test_params_round_trip_and_refuse_to_overwrite(tmp_path):
    params = {"a": {"b": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}
    save_params(tmp_path / "x", params, {"method": "irra", "model": {"sizes": (3, 4)}})
    step, loaded = load_params(tmp_path / "x")
    np.testing.assert_array_equal(loaded["a"]["b"], params["a"]["b"])
    assert step == 0 and model_fields(tmp_path / "x") == ("irra", {"sizes": (3, 4)})
    with pytest.raises(ValueError, match="not empty"):
        save_params(tmp_path / "x", params, {})
    with pytest.raises(ValueError, match="tipr_jax.convert"):
        load_params(tmp_path)
