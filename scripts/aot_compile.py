#!/usr/bin/env python
"""Compiles the real training step for a TPU slice that is not there, and says whether it fits.

  python scripts/aot_compile.py --config=configs/irra.py --topology=v5e:4x4 --batch=1024 \\
      --config.remat=dots
  python scripts/aot_compile.py --config=configs/irra.py --topology=v5p:2x2x4 --batch=4096 --json

Needs no TPU and no data, but the TPU compiler: pip install -e '.[aot]'. --batch is global. Any
field of the config can be changed with --config.field=value; bfloat16 is the default precision.
Prints memory per chip, collectives per step, compile time, model FLOPs (3 x the products of the
forward pass, see tipr_jax/analysis/cost.py), FLOPs and memory traffic of the compiled step, and how
much of the chip's peak they allow at most (tipr_jax/analysis/traffic.py). Exit code 1 if the step
does not fit.
"""

import json
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # only the compiler of the TPU is used
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # No machine is asked for what it is; without these libtpu prints that it could not find out.
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a bare checkout

from absl import app, flags
from ml_collections import config_flags

from tipr_jax import command_line, interrupt
from tipr_jax.analysis import aot
from tipr_jax.analysis.chips import chip_of

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file", lock_config=True)
_TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:4x4", "Chips and how they are connected, as v5p:2x2x4"
)
_BATCH = flags.DEFINE_integer("batch", 0, "Global batch size; 0: the config's")
_JSON = flags.DEFINE_bool("json", False, "Print JSON instead of lines")


def main(argv: list[str]) -> None:
    config = _CONFIG.value
    try:
        devices = aot.topology_devices(_TOPOLOGY.value)
        if config.precision == "auto":
            config.precision = "bfloat16"  # as on the chip, not as on this host
        if config.attention == "auto":
            config.attention = "grouped"  # the same
        if _BATCH.value:
            config.data.batch_size = _BATCH.value
        config.eval.batch_size = config.data.batch_size  # not compiled, but it must divide
        report = aot.compile_report(config, devices, chip_of(_TOPOLOGY.value))
    except ValueError as error:
        sys.exit(f"error: {error}")
    if _JSON.value:
        print(json.dumps({"topology": _TOPOLOGY.value} | aot.as_json(report)))
    else:
        print("\n".join([_TOPOLOGY.value, *aot.lines(report)]))
    sys.exit(not report.fits)


if __name__ == "__main__":
    interrupt.watch()
    app.run(main, flags_parser=command_line.parse)
