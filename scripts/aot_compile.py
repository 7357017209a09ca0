#!/usr/bin/env python
"""Compiles the real training step for a TPU slice that is not there, and says whether it fits.

  python scripts/aot_compile.py --config=configs/irra.py --topology=v5e:4x4 --batch=1024 \\
      --config.remat=dots
  python scripts/aot_compile.py --config=configs/irra.py --topology=v5p:2x2x4 --batch=4096 --json

Needs no TPU and no data, but the TPU compiler: pip install -e '.[aot]'. --batch is global. Any
field of the config can be changed with --config.field=value; bfloat16 is the default precision.
Prints memory per chip, collectives per step, compile time and model FLOPs (3 x the products of the
forward pass, see tipr_jax/cost.py). Exit code 1 if the step does not fit.
"""

import importlib.util
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

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

import jax
from absl import app, flags
from jax.experimental import topologies
from ml_collections import config_flags

from tipr_jax import collectives, command_line, cost, experiment, trainer

GIB = 2**30
HBM_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
COMPILER = "libtpu, the TPU compiler, is not installed; pip install -e '.[aot]' (or libtpu)"

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "Chips and their layout, as v5p:2x2x4")
_BATCH = flags.DEFINE_integer("batch", 0, "Global batch size; 0: the config's")
_JSON = flags.DEFINE_bool("json", False, "Print JSON instead of lines")


def topology_devices(name: str) -> list[Any]:
    """The chips of a slice.

    Raises:
      ValueError: no compiler, or no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(COMPILER)
    chip = name.partition(":")[0]
    if chip not in HBM_GIB:
        raise ValueError(f"--topology={name}: unknown chip {chip!r}, expected {sorted(HBM_GIB)}")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # a JaxRuntimeError of many lines
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--topology={name}: not a slice that libtpu knows, expected as in v5e:4x4 or "
            f"v5p:2x2x4 ({first[:200]})"
        ) from error


def compile_report(config: Any, devices: list[Any], hbm: float) -> dict[str, Any]:
    """Compiles `config`'s training step for `devices` of `hbm` bytes each.

    Returns: a dict of numbers, all memory in bytes per chip.
    """
    exp = experiment.build(config, devices=devices)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=1000)
    abstract = experiment.abstract_state(exp, optimizer)
    batch = experiment.abstract_batch(exp)
    flops = cost.train_step_flops(exp, batch)
    report = {
        "chips": exp.mesh.size,
        "mesh": dict(exp.mesh.shape),
        "rules": config.mesh.rules,
        "batch": config.data.batch_size,
        "remat": config.remat,
        "hbm": hbm,
        "estimate": cost.memory_estimate(exp, abstract, batch).total,
        "model_flops": flops,
        "model_flops_per_chip": flops / exp.mesh.size,
    }
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=exp.batch_sharding), batch
    )
    lowered = trainer.jit_train_step(exp, optimizer, abstract).lower(abstract, placed)
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = re.search(r"\(([\d.]+)G\)", str(error))
        return report | {"fits": False, "peak": float(needed[1]) * GIB if needed else None}
    seconds = time.perf_counter() - began
    return report | {"compile_seconds": seconds} | memory_and_traffic(compiled, hbm)


def memory_and_traffic(compiled: Any, hbm: float) -> dict[str, Any]:
    """The part of the report that only the compiled program knows."""
    memory = compiled.memory_analysis()
    # The state is donated: its results take the place of the arguments.
    new_results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + new_results
    report = {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "peak": peak,
        "fits": peak <= hbm,
        "collectives": None,
    }
    try:
        found = collectives.collectives(compiled.as_text())
    except jax.errors.JaxRuntimeError:  # a jaxlib older than libtpu cannot print some programs
        return report
    largest = sorted(found, key=lambda c: -c.count * c.size)[:8]
    return report | {
        "collectives": {k: list(v) for k, v in collectives.totals(found).items()},
        "largest_collectives": [c._asdict() for c in largest],
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    gib = lambda x: "?" if x is None else f"{x / GIB:.2f} GiB"  # noqa: E731
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    out = [
        f"{report['chips']} chips as {report['mesh']}, {report['rules']}, "
        f"batch {report['batch']}, remat {report['remat']}",
        f"memory per chip: {gib(report['peak'])} of {gib(report['hbm'])}: {verdict} "
        f"(estimate before compiling {gib(report['estimate'])})",
    ]
    if "arguments" in report:
        out.append(
            f"  arguments {gib(report['arguments'])}, temporaries {gib(report['temporaries'])}; "
            f"compiled in {report['compile_seconds']:.0f} s"
        )
        out += traffic_lines(report)
    out.append(
        f"model FLOPs per step: {report['model_flops']:.3e}, "
        f"per chip {report['model_flops_per_chip']:.3e}"
    )
    return out


def traffic_lines(report: dict[str, Any]) -> list[str]:
    if report["collectives"] is None:
        return ["collectives: this jaxlib cannot print the program that this libtpu compiled"]
    out = ["collectives per step and chip:"]
    for kind, (runs, moved) in report["collectives"].items():
        out.append(f"  {kind:20} {runs:5} runs {moved / 1e6:12.2f} MB")
    out.append("largest:")
    for c in report["largest_collectives"]:
        moved = c["count"] * c["size"] / 1e6
        out.append(f"  {c['kind']:20} {c['count']:5} x  {moved:12.2f} MB  {c['source'][-90:]}")
    return out


def main(argv: list[str]) -> None:
    config = _CONFIG.value
    try:
        devices = topology_devices(_TOPOLOGY.value)
        if config.precision == "auto":
            config.precision = "bfloat16"  # as on the chip, not as on this host
        if _BATCH.value:
            config.data.batch_size = _BATCH.value
        config.eval.batch_size = config.data.batch_size  # not compiled, but it must divide
        hbm = HBM_GIB[_TOPOLOGY.value.partition(":")[0]] * GIB
        report = {"topology": _TOPOLOGY.value} | compile_report(config, devices, hbm)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(report) if _JSON.value else "\n".join([_TOPOLOGY.value, *lines(report)]))
    sys.exit(not report["fits"])


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
