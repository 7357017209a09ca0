"""FLOPs and memory traffic of compiled programs, and the bound that they give."""

import jax
import jax.numpy as jnp
import pytest

from tipr_jax.analysis import hlo, traffic
from tipr_jax.analysis.chips import CHIPS, Chip, chip_of
from tipr_jax.analysis.hlo import Module


def compiled(function, *args) -> Module:
    return Module(jax.jit(function).lower(*args).compile().as_text())


def array(text: str) -> hlo.Array:
    (found,) = hlo.arrays_of(text)
    return found


@pytest.mark.parametrize(
    ("text", "padded", "space"),
    [
        ("f32[10,20]{1,0}", 10 * 20 * 4, 0),  # no tiles
        ("f32[64,193,768]{2,1,0:T(8,128)}", 64 * 200 * 768 * 4, 0),
        ("bf16[64,12,193,193]{2,3,1,0:T(8,128)(2,1)}", 64 * 12 * 200 * 256 * 2, 0),
        ("bf16[64,193,3,12,64]{1,4,3,2,0:T(8,128)(2,1)S(1)}", 64 * 36 * 64 * 256 * 2, 1),
        ("s32[]{:T(128)}", 4, 0),
        ("u8[7]{0:T(512)}", 512, 0),
        ("pred[2,3,5]{0,2,1:T(8,128)(4,1)}", 3 * 8 * 128, 0),
    ],
)
def test_arrays_are_padded_to_tiles(text, padded, space):
    assert (array(text).padded_size, array(text).space) == (padded, space)


def test_a_loop_of_products_counts_every_trip():
    """A scan over stacked parameters reads one layer of them at a time, not all."""
    layers, width, rows = 6, 64, 16

    def step(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    found = traffic.costs(compiled(step, jnp.ones((rows, width)), jnp.ones((layers, width, width))))
    bound = traffic.roofline(found, Chip(0, 1e9, 1e12))
    assert bound.flops == layers * 2 * rows * width * width
    parameters = layers * width * width * 4
    assert parameters < bound.bytes < layers * parameters


def fused(text: str) -> list[traffic.Cost]:
    return traffic.costs(Module(text))


SLICED = """
%fused (p0: bf16[12,768,3072], p1: s32[], p2: bf16[12352,768]) -> bf16[12352,3072] {
  %p0 = bf16[12,768,3072]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  %z = s32[] constant(0)
  %ds = bf16[1,768,3072]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %z, %z), \
dynamic_slice_sizes={1,768,3072}
  %w = bf16[768,3072]{1,0:T(8,128)(2,1)} bitcast(%ds)
  %p2 = bf16[12352,768]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  ROOT %c = bf16[12352,3072]{1,0:T(8,128)(2,1)} convolution(%p2, %w), dim_labels=bf_io->bf
}
ENTRY %main (a: bf16[12,768,3072], i: s32[], x: bf16[12352,768]) -> bf16[12352,3072] {
  %a = bf16[12,768,3072]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %x = bf16[12352,768]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  ROOT %f = bf16[12352,3072]{1,0:T(8,128)(2,1)} fusion(%a, %i, %x), kind=kOutput, calls=%fused, \
metadata={op_name="jit(step)/dot_general"}
}
"""


def test_a_fusion_reads_a_slice_and_nothing_of_what_lies_on_the_chip():
    (cost,) = fused(SLICED)
    assert cost.bytes == 768 * 3072 * 2 + 12352 * 3072 * 2
    assert cost.flops == 2 * 12352 * 768 * 3072
    assert cost.source == "jit(step)/dot_general"
    whole = SLICED.replace("bitcast(%ds)", "reshape(%p0)")
    assert fused(whole)[0].bytes == (12 * 768 * 3072 + 12352 * 3072) * 2
    on_chip = SLICED.replace("ROOT %f = bf16[12352,3072]{1,0:T(8,128)(2,1)}", "ROOT %f = bf16"
                             "[12352,3072]{1,0:T(8,128)(2,1)S(1)}")  # fmt: skip
    assert fused(on_chip)[0].bytes == 768 * 3072 * 2


def test_what_a_loop_stacks_is_written_a_slice_at_a_time():
    text = """
%fused (p0: f32[12,64,768], p1: f32[64,768], p2: s32[]) -> f32[12,64,768] {
  %p0 = f32[12,64,768]{2,1,0:T(8,128)} parameter(0)
  %p1 = f32[64,768]{1,0:T(8,128)} parameter(1)
  %p2 = s32[] parameter(2)
  %b = f32[1,64,768]{2,1,0:T(8,128)} bitcast(%p1)
  ROOT %u = f32[12,64,768]{2,1,0:T(8,128)} dynamic-update-slice(%p0, %b, %p2, %p2, %p2)
}
ENTRY %main (a: f32[12,64,768], x: f32[64,768], i: s32[]) -> f32[12,64,768] {
  %a = f32[12,64,768]{2,1,0:T(8,128)} parameter(0)
  %x = f32[64,768]{1,0:T(8,128)} parameter(1)
  %i = s32[]{:S(6)} parameter(2)
  ROOT %f = f32[12,64,768]{2,1,0:T(8,128)} fusion(%a, %x, %i), kind=kLoop, calls=%fused
}
"""
    (cost,) = fused(text)
    assert cost.bytes == 2 * 64 * 768 * 4


@pytest.mark.parametrize(
    ("window", "labels", "lhs", "rhs", "out", "flops"),
    [
        # Heads as a dimension of the window, with padding all around: each meets one tap.
        (
            "window={size=1x3x12 pad=0_0x2_2x11_11 rhs_reversal=0x1x1}, ",
            "0bf12_i12o0->0b12f",
            "bf16[64,193,768,1,1]",
            "bf16[768,3,12,64,1]",
            "bf16[64,193,3,12,64]",
            2 * 64 * 193 * 768 * 3 * 12 * 64,
        ),
        # A batch as a dilated window: every row is multiplied with its own matrix alone.
        (
            "window={size=64x12 stride=63x11 lhs_dilate=64x12}, ",
            "0b1f_0o1i->01bf",
            "bf16[64,193,12,64]",
            "bf16[64,193,12,64]",
            "f32[64,12,193,193]",
            2 * 64 * 12 * 193 * 193 * 64,
        ),
        ("", "bf_io->bf", "f32[8,16]", "f32[16,4]", "f32[8,4]", 2 * 8 * 16 * 4),
    ],
)
def test_products_written_as_convolutions(window, labels, lhs, rhs, out, flops):
    text = f"""
ENTRY %main (a: {lhs}, b: {rhs}) -> {out} {{
  %a = {lhs} parameter(0)
  %b = {rhs} parameter(1)
  ROOT %c = {out} convolution(%a, %b), {window}dim_labels={labels}
}}
"""
    (cost,) = fused(text)
    assert cost.flops == flops


def test_flops_of_a_patch_embedding():
    """A convolution with a stride, as this machine compiles it."""
    x, w = jnp.ones((2, 32, 16, 3)), jnp.ones((8, 8, 3, 16))

    def embed(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (8, 8), "VALID", dimension_numbers=numbers)

    bound = traffic.roofline(traffic.costs(compiled(embed, x, w)), Chip(0, 1e9, 1e12))
    assert bound.flops == 2 * 2 * (4 * 2) * (8 * 8 * 3) * 16


def test_a_copy_moves_what_lies_in_the_large_memory():
    text = """
ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %s = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %d = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%s)
  %n = f32[8,128]{1,0:T(8,128)} negate(%d)
  ROOT %r = f32[8,128]{1,0:T(8,128)} negate(%n)
}
"""
    found = fused(text)
    assert {cost.name: cost.bytes for cost in found} == {"s": 4096, "n": 4096, "r": 8192}
    # The copy runs beside the others: it takes bandwidth, but no time of its own.
    slow, quick = Chip(0, bandwidth=4096, flops=1e12), Chip(0, bandwidth=8192, flops=1e12)
    assert [cost.seconds(slow) for cost in found] == [0, 1, 2]
    assert (
        traffic.roofline(found, slow).seconds == 4 and traffic.roofline(found, quick).seconds == 2
    )


def test_the_bound_takes_the_slower_of_both():
    chip = Chip(0, bandwidth=10, flops=100)
    found = [traffic.Cost("a", 2, 100, 1, "x"), traffic.Cost("b", 1, 1, 50, "y")]
    bound = traffic.roofline(found, chip)
    assert bound == (201, 52, 2 * 1.0 + 5.0)
    assert bound.utilisation(350, chip) == 0.5
    assert traffic.by_source(found, chip) == [("y", 5.0), ("x", 2.0)]


def test_chips():
    assert chip_of("v5e:4x4") is CHIPS["v5e"]
    # Of every chip: HBM holds bytes, and a byte is worth a hundred FLOPs or more.
    assert all(chip.flops / chip.bandwidth > 100 for chip in CHIPS.values())
