"""What tests say about the machine: its devices, fast compilation, hangs, rounding."""

import os

# Tests compile much and compute little. Without the expensive passes XLA compiles in three quarters
# of the time, and with its older emitters of fused loops in a third. Should a later XLA refuse the
# name of a flag, drop the flag.
FAST_COMPILE = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
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
