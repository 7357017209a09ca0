"""FLOPs and memory that are read off a traced step, against hand counts and the compiler's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import irra
from tipr_jax import experiment, trainer
from tipr_jax.analysis import cost
from tipr_jax.analysis.cost import Memory
from tipr_jax.batch import Column, Values
from tipr_jax.models.method import EpochHook

# An estimate is off by at most this factor, either way (it leaves out the activations of the one
# layer that remat computes again).
FACTOR = 1.6


def test_products_count_twice_their_multiply_adds():
    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 7))
    assert cost.flops(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 7
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 2, 3, 10))

    def convolve(x, w):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (2, 2), "VALID", dimension_numbers=names)

    assert cost.flops(convolve, image, kernel) == 2 * (2 * 4 * 4 * 10) * (2 * 2 * 3)


def test_control_flow_counts_what_runs():
    x, w = jnp.ones((2, 4)), jnp.ones((4, 4))
    once = 2 * 2 * 4 * 4
    multiply = jax.checkpoint(lambda x, _: (x @ w, None))

    def scan(x):
        return jax.lax.scan(multiply, x, length=6)

    def branches(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: x @ w @ w, x)

    assert cost.flops(scan, x) == cost.flops(jax.jit(scan), x) == 6 * once
    assert cost.flops(branches, x) == once


def debug_config(batch_size: int = 32):
    config = irra.get_config("debug")
    config.model.vision_depth = config.model.text_depth = 3
    config.model.vision_width = config.model.text_width = config.model.embed_dim = 128
    config.model.vocab_size = 1024
    config.data.batch_size = config.eval.batch_size = batch_size
    return config


def prepare(config, devices=None):
    exp = experiment.build(config, devices=devices, num_persons=50)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=10)
    return exp, optimizer, experiment.abstract_state(exp, optimizer)


def tower_flops(tokens: int, width: int, depth: int, out: int) -> int:
    """QKV, output and two MLP products of 12 width^2 parameters; scores and weighted values.

    Of the last block one token is computed, from the keys and values of all; it is projected.
    """
    block = 2 * 12 * tokens * width**2 + 4 * tokens**2 * width
    last = 2 * (2 * tokens + 10) * width**2 + 4 * tokens * width
    return (depth - 1) * block + last + 2 * width * out


def test_step_flops_agree_with_a_hand_count():
    config = debug_config()
    config.model.losses = ("itc",)
    exp = prepare(config)[0]
    model, rows = exp.model_config, config.data.batch_size
    patches = (model.image_size[0] // 16) * (model.image_size[1] // 16)
    width, out = model.vision_width, model.embed_dim
    image = tower_flops(1 + patches, width, 3, out) + 2 * patches * 768 * width
    text = tower_flops(model.text_length, width, 3, out)
    counted = cost.train_step_flops(exp, experiment.abstract_batch(exp))
    assert counted == pytest.approx(3 * rows * (image + text), rel=0.01)
    batch = experiment.abstract_batch(exp)["image"]
    assert cost.encode_flops(exp, "encode_image", batch) == rows * image


@pytest.mark.parametrize("rules, remat", [("data_parallel", "none"), ("fully_sharded", "full")])
@pytest.mark.slow
def test_estimate_agrees_with_the_compiler(rules, remat):
    config = debug_config(256)
    config.mesh.rules, config.remat = rules, remat
    exp, optimizer, abstract = prepare(config)
    estimate = cost.memory_estimate(exp, abstract, experiment.abstract_batch(exp))
    batch = experiment.abstract_batch(exp)
    compiled = trainer.jit_train_step(exp, optimizer, abstract).lower(abstract, batch).compile()
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + results
    assert peak / FACTOR < estimate.total < peak * FACTOR, (estimate, peak)


def test_sharding_micro_batches_and_remat_shrink_what_they_should():
    whole = estimate_of(debug_config(), jax.devices()[:1])
    config = debug_config()
    config.mesh.rules = "fully_sharded"
    shared = estimate_of(config, jax.devices())
    assert shared.parameters < whole.parameters / 7 and shared.optimiser < whole.optimiser / 7
    assert shared.activations < whole.activations / 4
    config = debug_config()
    config.micro_batches = 4
    pieces = estimate_of(config, jax.devices()[:1])
    assert pieces.parameters == whole.parameters and pieces.activations < whole.activations / 2


def estimate_of(config, devices) -> Memory:
    exp, _, abstract = prepare(config, devices)
    return cost.memory_estimate(exp, abstract, experiment.abstract_batch(exp))


def test_a_method_with_an_epoch_hook_and_groups_of_rows_is_traced():
    """The hook's arrays are in the batch; the groups shrink to the rows of one device."""
    exp, _, abstract = prepare(debug_config(24))
    method, config, seen = exp.method, exp.model_config, {}

    @dataclasses.dataclass(frozen=True)
    class Grouped(type(config)):
        group: int = 2

        @property
        def row_group(self) -> int:
            return self.group

        def with_row_group(self, rows: int) -> "Grouped":
            return dataclasses.replace(self, group=rows)

    def prepare_inputs(batch, key, config):
        seen[len(batch["valid"])] = (batch["clean"].shape, batch["clean"].dtype, config.row_group)
        return method.prepare_inputs(batch, key, config)

    arrays = {"clean": Column((2,), np.float32, Values.NUMBER)}
    hook = EpochHook(score=None, summarise=None, arrays=lambda config: arrays)
    changed = dataclasses.replace(
        exp,
        method=dataclasses.replace(method, epoch_hook=hook, prepare_inputs=prepare_inputs),
        model_config=Grouped(**dataclasses.asdict(config)),
    )
    batch = experiment.abstract_batch(exp)
    cost.memory_estimate(changed, abstract, batch)  # 3 rows on each of 8 devices
    cost.train_step_flops(changed, batch)
    assert seen == {3: ((3, 2), np.float32, 1), 24: ((24, 2), np.float32, 2)}


def test_the_line_says_what_to_change_when_it_will_not_fit():
    memory = Memory(2 * 10**9, 4 * 10**9, 2 * 10**9, 10**9, 0, 0)
    fits = cost.describe_memory(memory, 10 * 10**9, can_be_cut=True)
    assert fits.startswith("memory estimate 9 of 10 GB per device: parameters 2, optimiser 4")
    assert "will not fit" not in fits
    line = cost.describe_memory(memory, 8 * 10**9, can_be_cut=True)
    assert "it will not fit: use a smaller --config.data.batch_size" in line
    assert "--config.micro_batches" in line
    assert "micro_batches" not in cost.describe_memory(memory, 8 * 10**9, can_be_cut=False)
    assert cost.device_capacity() > 10**8
