"""The devices of this machine and the peak that utilisation is a share of."""

import time

import jax
import jax.numpy as jnp
import numpy as np

# Dense bfloat16 FLOP/s of one chip, from the vendors' data sheets; the first name found in
# `device_kind` counts.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "v6e": 918e12,
    "v6 lite": 918e12,
    "v5e": 197e12,
    "v5 lite": 197e12,
    "v5p": 459e12,
    "v5": 459e12,  # v5p reports itself as "TPU v5"
    "v4": 275e12,
}
FORMULA = (
    "utilisation = model FLOPs / seconds / peak; model FLOPs = 2 x multiply-adds of the matrix "
    "products of the forward pass, x 3 for a training step (tipr_jax/analysis/cost.py)"
)


def describe() -> str:
    device = jax.devices()[0]
    text = f"{device.device_kind} ({device.platform} x {jax.device_count()}), jax {jax.__version__}"
    if device.platform == "cpu":
        text += "\nno accelerator here: these are figures of the CPU; on a GPU or TPU run the same"
    return text


def peak_flops() -> tuple[float | None, str]:
    """(FLOP/s of all devices together or None, where the figure comes from)."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        peak = measured_matmul_flops()
        return peak, f"{peak / 1e9:.0f} GFLOP/s, a float32 matrix product measured in this run"
    for name, peak in PEAK_FLOPS.items():
        if name.lower() in device.device_kind.lower():
            total = peak * jax.device_count()
            return total, f"{total / 1e12:.0f} TFLOP/s, dense bfloat16 of the data sheet"
    return None, f"unknown for {device.device_kind}; no utilisation is shown"


def measured_matmul_flops(size: int = 2048, rounds: int = 7) -> float:
    """The best of some large float32 products on the first device (which uses every core)."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
