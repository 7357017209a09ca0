"""What the backward pass computes again changes memory, not results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tipr_jax.analysis import cost
from tipr_jax.batch import abstract_batch
from tipr_jax.models import get_method, irra
from tipr_jax.nn.init import BlockInit
from tipr_jax.nn.transformer import Block, apply_blocks, stack_layers
from tipr_jax.precision import ComputePolicy, policy
from tipr_jax.train_state import define_model
from tipr_jax.train_step import total_loss

CONFIG = irra.Config.tiny(vision_depth=4, text_depth=4, fusion_depth=4)


def blocks_and_loss(remat: str, compute=jnp.float32):
    """(loss(params, x), params, x) of two residual blocks."""
    how = ComputePolicy(compute=compute, remat=remat)
    init = BlockInit.clip(64, 2)
    blocks = stack_layers(lambda r: Block(64, 1, init, how, rngs=r), 2, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(blocks, nnx.Param)

    def loss(params, x):
        y = apply_blocks(nnx.merge(graphdef, params), x).astype(jnp.float32)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape)))

    return loss, params, jax.random.normal(jax.random.key(1), (3, 5, 64)).astype(compute)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_same_value_and_gradients(remat):
    results = []
    for choice in ("none", remat):
        loss, params, x = blocks_and_loss(choice)
        results.append(jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x))
    for kept, recomputed in zip(*map(jax.tree.leaves, results), strict=True):
        assert np.linalg.norm(kept - recomputed) <= 1e-6 * np.linalg.norm(kept)


def kept_by_the_model(remat: str) -> int:
    method = get_method("irra")
    graphdef, _, init = define_model(method, CONFIG, ComputePolicy(remat=remat))
    batch = abstract_batch(8, CONFIG.image_size, CONFIG.text_length)
    key = jax.random.key(0)
    inputs = jax.eval_shape(lambda b: method.prepare_inputs(b, key, CONFIG), batch)

    def loss(params, inputs):
        return total_loss(method.objective(nnx.merge(graphdef, params), inputs, CONFIG))

    return cost.residual_bytes(loss, jax.eval_shape(init, key), inputs)


def test_each_policy_keeps_less():
    kept = [kept_by_the_model(remat) for remat in ("none", "dots", "full")]
    assert kept[0] > 1.3 * kept[1] and kept[1] > 1.3 * kept[2], kept


def test_activations_are_bfloat16_and_gradients_float32():
    loss, params, x = blocks_and_loss("none", jnp.bfloat16)
    grads = jax.eval_shape(jax.grad(loss), params, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    scan = next(e for e in jax.make_jaxpr(loss)(params, x).eqns if e.primitive.name == "scan")
    assert scan.outvars[0].aval.dtype == jnp.bfloat16, "the residual stream is not bfloat16"
    inside = scan.params["jaxpr"].jaxpr.eqns
    products = [e for e in inside if e.primitive.name == "dot_general"]
    softmax = [e for e in inside if e.primitive.name == "exp"]
    assert all(e.invars[0].aval.dtype == jnp.bfloat16 for e in products)
    assert all(e.invars[0].aval.dtype == jnp.float32 for e in softmax)


def test_unknown_names_are_refused():
    for field in ("precision", "remat", "attention"):
        with pytest.raises(ValueError, match=f"{field} is 'fast', expected one of"):
            policy(**{field: "fast"})
