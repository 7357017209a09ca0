"""The attention kernel is a choice that changes no result, and fails early where it cannot run."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from configs import irra as irra_config
from tipr_jax import experiment, precision, sharding, trainer
from tipr_jax.nn.attention import Attention, attend, attend_padded, head_groups
from tipr_jax.nn.beit import RelativeAttention
from tipr_jax.nn.init import BlockInit
from tipr_jax.precision import ComputePolicy, policy


def reference(q, k, v, mask):
    logits = np.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(q.shape[-1])
    logits = np.where(mask, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhlm,bmhk->blhk", weights / weights.sum(-1, keepdims=True), v)


def make_attention(how: ComputePolicy) -> Attention:
    return Attention(48, 6, BlockInit.clip(48, 2), how, rngs=nnx.Rngs(0))


def make_relative_attention(how: ComputePolicy) -> RelativeAttention:
    """Of a class token and 2 x 2 patches, with position biases that are not zero."""
    attention = RelativeAttention(48, 6, (2, 2), BlockInit.bert(48), how, rngs=nnx.Rngs(0))
    bias = attention.position_bias
    bias[...] = jnp.sin(jnp.arange(bias[...].size, dtype=jnp.float32)).reshape(bias[...].shape)
    return attention


@pytest.mark.parametrize("implementation", ["xla", "cudnn"])
def test_masked_keys_are_not_read_by_any_implementation(implementation):
    """Masked attention takes the XLA path even where cuDNN is asked for: no additive bias."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 13, 2, 8)).astype(np.float32)
    mask = rng.random((2, 13)) < 0.6
    mask[:, 0] = True
    got = attend(q, k, v, implementation, key_mask=jnp.asarray(mask))
    np.testing.assert_allclose(got, reference(q, k, v, mask[:, None, None]), rtol=2e-5, atol=2e-6)


def test_causal_attention_at_an_odd_length():
    rng = np.random.default_rng(1)
    q, k, v = rng.normal(size=(3, 2, 13, 2, 8)).astype(np.float32)
    got = attend(q, k, v, "xla", causal=True)
    np.testing.assert_allclose(
        got, reference(q, k, v, np.tri(13, dtype=bool)), rtol=2e-5, atol=2e-6
    )


@pytest.mark.parametrize("queries, keys, causal", [(13, 13, True), (13, 8, False), (8, 13, False)])
def test_padding_to_even_lengths_changes_nothing(queries, keys, causal):
    """The path of cuDNN, by another kernel: results and gradients."""
    rng = np.random.default_rng(2)
    q = rng.normal(size=(2, queries, 2, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, keys, 2, 8)).astype(np.float32)

    def value_and_gradient(attention):
        def weighted(*qkv):
            y = attention(*qkv, "xla", causal=causal)
            return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

        return jax.grad(weighted, (0, 1, 2), has_aux=True)(q, k, v)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        value_and_gradient(attend_padded),
        value_and_gradient(attend),
    )


ONE_HEAD = 2 * 8 * 128 * 4  # bytes of a head's scores of 2 x 5 tokens


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("make", [make_attention, make_relative_attention])
def test_heads_in_groups_give_the_same(make, size):
    """Results and gradients."""
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5, 48)), jnp.float32)

    def value_and_gradient(size):
        graphdef, params = nnx.split(make(ComputePolicy(score_bytes=size * ONE_HEAD)))
        tilt = jnp.cos(jnp.arange(x.size)).reshape(x.shape)
        loss = lambda params, x: jnp.sum(nnx.merge(graphdef, params)(x) * tilt)  # noqa: E731
        return jax.value_and_grad(loss, (0, 1))(params, x)

    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)
    jax.tree.map(close, value_and_gradient(0), value_and_gradient(size))


def test_masked_and_causal_heads_in_groups():
    x = jnp.asarray(np.random.default_rng(4).normal(size=(2, 5, 48)), jnp.float32)
    mask = jnp.array([[True] * 5, [True, True, False, True, False]])
    for how in ({"causal": True}, {"key_mask": mask}):
        sizes = (0, 2 * ONE_HEAD)
        whole, grouped = (make_attention(ComputePolicy(score_bytes=n))(x, **how) for n in sizes)
        np.testing.assert_allclose(whole, grouped, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("heads", "rows", "tokens", "size"),
    # What the compiler was fastest with; a short text; what has no room even alone; 7 heads.
    [(12, 64, 193, 4), (12, 56, 311, 2), (8, 64, 77, 8), (12, 64, 4000, 1), (7, 64, 193, 1)],
)
def test_groups_follow_the_size_of_the_scores(heads, rows, tokens, size):
    how = ComputePolicy(score_bytes=precision.SCORE_BYTES)
    groups = head_groups(heads, rows, tokens, how)
    assert groups == [slice(i, i + size) for i in range(0, heads, size)]
    everywhere = dataclasses.replace(
        how,
        activations=sharding.batch_sharding(sharding.make_mesh(), sharding.RULES["data_parallel"]),
    )
    assert head_groups(heads, 8 * rows, tokens, everywhere) == groups  # on eight devices
    assert head_groups(heads, rows, tokens, ComputePolicy()) == [slice(0, heads)]


def test_only_a_tpu_that_holds_all_heads_groups_them(monkeypatch):
    assert (
        policy("bfloat16").score_bytes == 0 and policy("float32", attention="grouped").score_bytes
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert policy("bfloat16").score_bytes == policy("float32").score_bytes > 0
    config = irra_config.get_config("debug")
    for rules, model, size in (
        ("data_parallel", 2, precision.SCORE_BYTES),
        ("fully_sharded", 2, precision.SCORE_BYTES),
        ("tensor_parallel", 1, precision.SCORE_BYTES),
        ("tensor_parallel", 2, 0),
    ):
        mesh = sharding.make_mesh(model=model)
        how = experiment.compute_policy(config, mesh, sharding.RULES[rules])
        assert how.score_bytes == size, (rules, model)


def test_cudnn_without_a_gpu_is_one_line():
    with pytest.raises(
        ValueError, match="attention is 'cudnn', which needs an NVIDIA GPU"
    ) as error:
        policy("bfloat16", attention="cudnn")
    assert "\n" not in str(error.value)


def test_auto_follows_device_and_precision(monkeypatch):
    assert policy("bfloat16").attention == "xla"
    monkeypatch.setattr(precision, "on_nvidia_gpu", lambda: True)
    assert policy("bfloat16").attention == "cudnn"
    assert policy("float32").attention == "xla"
    with pytest.raises(ValueError, match="needs an NVIDIA GPU and precision bfloat16"):
        policy("float32", attention="cudnn")


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_the_training_step_lowers_for_cuda(monkeypatch, remat):
    """Traced for an NVIDIA GPU, without one: 193 and 77 tokens, forward and backward."""
    monkeypatch.setattr(precision, "on_nvidia_gpu", lambda: True)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    config = irra_config.get_config("cuhk_pedes")
    config.precision, config.remat = "bfloat16", remat
    config.data.batch_size = config.eval.batch_size = 8
    config.model.vision_depth = config.model.text_depth = config.model.fusion_depth = 2
    config.model.vocab_size, config.model.vision_width, config.model.text_width = 512, 128, 128
    config.model.embed_dim = 128
    exp = experiment.build(config, devices=jax.devices()[:1])
    assert exp.model_config.text_length == 77 and exp.abstract_params["image_encoder"][
        "pos_embed"
    ].shape == (193, 128)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=10)
    abstract = experiment.abstract_state(exp, optimizer)
    step = trainer.jit_train_step(exp, optimizer, abstract)
    lowered = step.trace(abstract, experiment.abstract_batch(exp)).lower(
        lowering_platforms=("cuda",)
    )
    text = lowered.as_text()
    # Image tower, text tower, cross-attention, fusion blocks.
    assert text.count("__cudnn$fmhaSoftmaxBackward") >= 4
    assert "ScaleBias" not in text
    assert "PADDING_CAUSAL" in text and re.search(
        r'"mask_type": "PADDING"', text.replace("\\22", '"')
    )
