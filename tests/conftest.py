"""Test set-up: eight emulated CPU devices, exact float32 products, one compilation cache.

All of it is set before JAX starts, in the environment, so that subprocesses of tests have it, too.
"""

import hashlib
import os
import platform
from pathlib import Path

import machine

os.environ.update(machine.environment(devices=8))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"


def _processor() -> str:
    """What compiled code depends on besides the versions that JAX has in its keys."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


# Shared by the processes of one run of the tests, and by the next run. One program compiled by many
# tests is compiled once.
_KEY = hashlib.sha256(_processor().encode()).hexdigest()[:12]
_CACHE = Path(__file__).parents[1] / ".pytest_cache" / f"xla-{_KEY}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 * 2**30)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")

GOLDEN = Path(__file__).parent / "golden" / "irra"


@pytest.fixture
def golden():
    """Loads an array file of the golden directory by name."""
    return lambda name: dict(np.load(GOLDEN / name))


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory) -> Path:
    """Generated pedestrians in the layout of CUHK-PEDES: 12 train, 3 val and 4 test identities."""
    from data_pipelines.synth_pedes.generate import generate

    root = tmp_path_factory.mktemp("synth")
    sizes = dict(train_ids=12, val_ids=3, test_ids=4, images_per_id=3)
    generate(str(root), "cuhk_pedes", **sizes, height=64, seed=0)
    return root


@pytest.fixture
def tiny_config(tiny_root):
    """The quickstart config, shrunk to a two-second run on `tiny_root`."""
    from configs import irra

    config = irra.get_config("debug")
    config.data.root = str(tiny_root)
    config.data.cache_dir = str(tiny_root.parent / "image_cache")
    config.data.generate = {}
    config.data.image_size = (32, 16)
    config.data.text_length = 32
    config.data.batch_size = config.eval.batch_size = 16
    config.model.patch = config.model.stride = 8
    config.model.losses = ("sdm", "id", "itc")
    config.schedule.num_epochs = 2
    config.log_every_steps = 1
    return config
