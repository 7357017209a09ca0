"""The report on a compiled step: memory and collectives, on emulated devices instead of a TPU."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import irra
from tipr_jax import sharding
from tipr_jax.analysis import aot, collectives
from tipr_jax.analysis.chips import Chip
from tipr_jax.analysis.collectives import CollectiveOp
from tipr_jax.analysis.hlo import Module


def test_collectives_of_a_sharded_loop():
    """Six products that each sum over the devices, and one gather outside the loop."""
    mesh = sharding.make_mesh()
    rows, columns = NamedSharding(mesh, P("data")), NamedSharding(mesh, P(None, "data"))

    def step(x, w):
        def layer(x, _):
            y = jax.lax.with_sharding_constraint(x @ w, NamedSharding(mesh, P()))
            return jax.lax.with_sharding_constraint(jnp.tanh(y), columns), None

        x = jax.lax.scan(layer, x, length=6)[0]
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P()))

    x, w = jnp.ones((4, 64)), jnp.ones((64, 64))
    compiled = jax.jit(step, in_shardings=(columns, rows)).lower(x, w).compile()
    found = collectives.totals_by_kind(collectives.collective_ops(Module(compiled.as_text())))
    assert found["all-reduce"] == (6, 6 * 4 * 64 * 4)
    assert found["all-gather"] == (1, 4 * 64 * 4)


def test_types_of_the_tpu_compiler():
    hlo = """
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-reduce.1 = (f32[8,128]{1,0:T(8,128)S(1)}, bf16[4]{0}) all-reduce(%a, %b), to_apply=%add, \
metadata={op_name="jit(step)/while/body/dot"}
}
%cond (p: (s32[], f32[8])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.1), direction=LT
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]{0:T(128)}) while(%tuple), condition=%cond, body=%body
  %ag = (f32[2,4]{1,0}, f32[16,4]{1,0:T(8,128)}) all-gather-start(%x), dimensions={0}
  ROOT %done = f32[16,4]{1,0} all-gather-done(%ag)
}
"""
    found = collectives.collective_ops(Module(hlo))
    assert found == [
        CollectiveOp("all-reduce", 12, 8 * 128 * 4 + 4 * 2, "jit(step)/while/body/dot"),
        CollectiveOp("all-gather", 1, 16 * 4 * 4, ""),
    ]


@pytest.mark.slow
def test_report_of_a_real_step():
    config = irra.get_config("debug")
    config.model.vocab_size = 512
    config.data.batch_size = config.eval.batch_size = 16
    report = aot.compile_report(config, jax.devices(), Chip(16 * aot.GIB, 1e11, 1e12))
    assert report.fits and report.chips == 8
    assert report.model_flops_per_chip == report.model_flops / 8
    assert 0 < report.program.arguments < report.peak < 2**30
    runs, moved = report.program.collectives["all-reduce"]
    assert runs > 5 and moved > report.program.arguments / 4, "the gradients are not summed"
    assert json.loads(json.dumps(aot.as_json(report)))["largest_collectives"]
    text = "\n".join(aot.lines(report))
    assert "8 chips" in text and ": fits" in text and "all-reduce" in text
    bound = report.roofline
    # Every product of the model is in the program, some for a second time.
    assert report.model_flops_per_chip < bound.flops < 2 * report.model_flops_per_chip
    assert 0 < bound.utilisation(report.model_flops_per_chip, report.chip) < 1
    assert "of the peak" in text


def report_of(compiled, memory: int) -> aot.Report:
    sizes = dict(chips=1, batch=1, estimate=0, model_flops=1, model_flops_per_chip=1.0)
    program = aot.inspect(compiled)
    chip = Chip(memory, bandwidth=1e11, flops=1e12)
    return aot.Report(**sizes, mesh={}, rules="", remat="none", chip=chip, program=program)


def test_what_does_not_fit_is_said():
    compiled = jax.jit(lambda x: x @ x).lower(jnp.ones((64, 64))).compile()
    needed = 2 * 64 * 64 * 4
    small = report_of(compiled, memory=needed - 1)
    assert small.peak >= needed and not small.fits
    assert "DOES NOT FIT" in "\n".join(aot.lines(small))
    assert report_of(compiled, memory=10 * needed).fits


def test_a_program_that_cannot_be_printed_still_has_its_memory():
    compiled = jax.jit(lambda x: x @ x).lower(jnp.ones((64, 64))).compile()

    class Unprintable:
        memory_analysis = compiled.memory_analysis

        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    report = report_of(Unprintable(), memory=2**30)
    assert report.fits and report.program.collectives is None
    assert any("cannot print" in line for line in aot.lines(report))
    assert json.loads(json.dumps(aot.as_json(report)))["fits"]


def test_mistakes_are_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"libtpu.* is not installed; pip install -e '\.\[aot\]'"):
        aot.topology_devices("v5e:4x4")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="--topology=v9:2x2: unknown chip 'v9'"):
        aot.topology_devices("v9:2x2")
