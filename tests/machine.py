"""What tests say about the machine: its devices, fast compilation, hangs, rounding."""

import importlib.metadata
import os

# Tests compile much and compute little. Without the expensive passes XLA compiles in three quarters
# of the time, and with its older emitters of fused loops in a third. XLA ends the process of a flag
# that it does not know: JAX 0.12 no longer has the older emitters.
_JAX = tuple(map(int, importlib.metadata.version("jax").split(".")[:2]))
FAST_COMPILE = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        *(["--xla_cpu_use_fusion_emitters=false"] if _JAX < (0, 12) else []),
    ]
)

# Seconds after which a subprocess counts as hanging. It says nothing about speed: beside other busy
# processes a start of JAX and TensorFlow alone takes a minute.
HANGS = 900

ULP = 2.0**-23  # the spacing of float32 just above 1


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """The environment of a subprocess that runs on `devices` emulated CPU devices."""
    flags = f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | more
