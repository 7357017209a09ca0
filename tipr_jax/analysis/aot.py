"""Ahead of time: compiles the training step for devices that are not there, and reports on it.

`scripts/aot_compile.py` is the command line.
"""

import importlib.util
import re
import time
from collections.abc import Sequence
from typing import Any, TypedDict

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict

from tipr_jax import experiment, trainer
from tipr_jax.analysis import collectives, cost

GIB = 2**30
HBM_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
COMPILER = "libtpu, the TPU compiler, is not installed; pip install -e '.[aot]' (or libtpu)"


class Report(TypedDict, total=False):
    """What is known of a step; memory in bytes per chip.

    estimate: before compiling, by `cost.memory_estimate`. peak: None if the compiler refused the
    step and named no number; what follows it is absent if the compiler refused. collectives: kind
    -> [runs, bytes] per step and chip; None, and the largest absent, if the program cannot be
    printed.
    """

    chips: int
    mesh: dict[str, int]
    rules: str
    batch: int
    remat: str
    hbm: int
    estimate: int
    model_flops: int
    model_flops_per_chip: float
    fits: bool
    peak: float | None
    compile_seconds: float
    arguments: int
    temporaries: int
    collectives: dict[str, list[int]] | None
    largest_collectives: list[dict[str, Any]]


def topology_devices(name: str) -> list[jax.Device]:
    """The chips of a slice.

    Raises:
      ValueError: no compiler, or no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(COMPILER)
    memory_of_chip(name)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # a JaxRuntimeError of many lines
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--topology={name}: not a slice that libtpu knows, expected as in v5e:4x4 or "
            f"v5p:2x2x4 ({first[:200]})"
        ) from error


def memory_of_chip(topology: str) -> int:
    """Bytes of high-bandwidth memory that each chip of a slice has.

    Raises:
      ValueError: an unknown chip.
    """
    chip = topology.partition(":")[0]
    if chip not in HBM_GIB:
        raise ValueError(
            f"--topology={topology}: unknown chip {chip!r}, expected {sorted(HBM_GIB)}"
        )
    return HBM_GIB[chip] * GIB


def compile_report(config: ConfigDict, devices: Sequence[jax.Device], hbm: int) -> Report:
    """Compiles `config`'s training step for `devices` of `hbm` bytes each."""
    exp = experiment.build(config, devices=devices)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=1000)
    abstract = experiment.abstract_state(exp, optimizer)
    batch = experiment.abstract_batch(exp)
    flops = cost.train_step_flops(exp, batch)
    report: Report = {
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


def memory_and_traffic(compiled: jax.stages.Compiled, hbm: int) -> Report:
    """The part of the report that only the compiled program knows."""
    memory = compiled.memory_analysis()
    # The state is donated: its results take the place of the arguments.
    new_results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + new_results
    report: Report = {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "peak": peak,
        "fits": peak <= hbm,
        "collectives": None,
    }
    try:
        found = collectives.collective_ops(compiled.as_text())
    except jax.errors.JaxRuntimeError:  # a jaxlib older than libtpu cannot print some programs
        return report
    largest = sorted(found, key=lambda c: -c.count * c.size)[:8]
    return report | {
        "collectives": {k: list(v) for k, v in collectives.totals_by_kind(found).items()},
        "largest_collectives": [c._asdict() for c in largest],
    }


def lines(report: Report) -> list[str]:
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


def traffic_lines(report: Report) -> list[str]:
    """The lines about collective operations: totals per kind, then the largest."""
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
