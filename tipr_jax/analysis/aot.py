"""Ahead of time: compiles the training step for devices that are not there, and reports on it.

`scripts/aot_compile.py` is the command line.
"""

import dataclasses
import importlib.util
import re
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict

from tipr_jax import experiment, trainer
from tipr_jax.analysis import collectives, cost, traffic
from tipr_jax.analysis.chips import GIB, Chip, chip_of
from tipr_jax.analysis.collectives import CollectiveOp
from tipr_jax.analysis.hlo import Module
from tipr_jax.analysis.traffic import Cost, Roofline

# In JAX's stubs the name is a variable.
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]
LARGEST = 8  # so many lines of what takes most
COMPILER = "libtpu, the TPU compiler, is not installed; pip install -e '.[aot]' (or libtpu)"


@dataclasses.dataclass(frozen=True)
class Program:
    """What only the compiled step tells; memory in bytes per chip.

    collectives: kind -> (runs, bytes) per step and chip, and the largest of them. costs: FLOPs and
    traffic of every instruction. All three are None if the program cannot be printed.
    """

    peak: float
    arguments: int
    temporaries: int
    collectives: dict[str, tuple[int, int]] | None = None
    largest_collectives: list[CollectiveOp] | None = None
    costs: list[Cost] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of a step; memory in bytes per chip.

    estimate: before compiling, by `cost.memory_estimate`. program: None if the compiler refused the
    step for want of memory; then `needed` is what it asked for, or None if it named no number.
    """

    chips: int
    mesh: dict[str, int]
    rules: str
    batch: int
    remat: str
    chip: Chip
    estimate: int
    model_flops: int
    model_flops_per_chip: float
    program: Program | None = None
    needed: float | None = None
    compile_seconds: float = 0.0

    @property
    def peak(self) -> float | None:
        return self.program.peak if self.program else self.needed

    @property
    def fits(self) -> bool:
        return self.program is not None and self.program.peak <= self.chip.memory

    @property
    def roofline(self) -> Roofline | None:
        """FLOPs, traffic and least time of the compiled step, where it can be printed."""
        if self.program is None or self.program.costs is None:
            return None
        return traffic.roofline(self.program.costs, self.chip)


def topology_devices(name: str) -> list[Device]:
    """The chips of a slice.

    Raises:
      ValueError: no compiler, or no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(COMPILER)
    chip_of(name)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # a JaxRuntimeError of many lines
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--topology={name}: not a slice that libtpu knows, expected as in v5e:4x4 or "
            f"v5p:2x2x4 ({first[:200]})"
        ) from error


def compile_report(config: ConfigDict, devices: Sequence[Device], chip: Chip) -> Report:
    """Compiles `config`'s training step for `devices`, each of which is such a chip."""
    exp = experiment.build(config, devices=devices)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=1000)
    abstract = experiment.abstract_state(exp, optimizer)
    batch = experiment.abstract_batch(exp)
    flops = cost.train_step_flops(exp, batch)
    report = Report(
        chips=exp.mesh.size,
        mesh=dict(exp.mesh.shape),
        rules=config.mesh.rules,
        batch=config.data.batch_size,
        remat=config.remat,
        chip=chip,
        estimate=cost.memory_estimate(exp, abstract, batch).total,
        model_flops=flops,
        model_flops_per_chip=flops / exp.mesh.size,
    )
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
        return dataclasses.replace(report, needed=float(needed[1]) * GIB if needed else None)
    seconds = time.perf_counter() - began
    return dataclasses.replace(report, program=inspect(compiled), compile_seconds=seconds)


def inspect(compiled: jax.stages.Compiled) -> Program:
    """Memory, collective operations and traffic of a compiled step."""
    memory = compiled.memory_analysis()
    assert memory is not None, "the compiler does not tell the memory of its programs"
    # The state is donated: its results take the place of the arguments.
    new_results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + new_results
    program = Program(peak, memory.argument_size_in_bytes, memory.temp_size_in_bytes)
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # a jaxlib older than libtpu cannot print some programs
        text = None
    if text is None:
        return program
    module = Module(text)
    found = collectives.collective_ops(module)
    return dataclasses.replace(
        program,
        collectives=collectives.totals_by_kind(found),
        largest_collectives=sorted(found, key=lambda c: -c.count * c.size)[:LARGEST],
        costs=traffic.costs(module),
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report as one flat JSON object; a collective operation is an object, too."""
    program, bound = report.program, report.roofline
    values = dataclasses.asdict(dataclasses.replace(report, program=None))
    values |= {"peak": report.peak, "fits": report.fits, "chip": report.chip._asdict()}
    del values["needed"], values["program"]  # what was needed is the peak
    if program is None:
        return values
    largest = [c._asdict() for c in program.largest_collectives or []]
    values |= dataclasses.asdict(dataclasses.replace(program, costs=None))
    values |= {"largest_collectives": largest}
    del values["costs"]  # thousands of instructions
    if bound is None:
        return values
    utilisation = bound.utilisation(report.model_flops_per_chip, report.chip)
    return values | {"roofline": bound._asdict() | {"utilisation": utilisation}}


def lines(report: Report) -> list[str]:
    """The report for people."""
    gib = lambda x: "?" if x is None else f"{x / GIB:.2f} GiB"  # noqa: E731
    out = [
        f"{report.chips} chips as {report.mesh}, {report.rules}, "
        f"batch {report.batch}, remat {report.remat}",
        f"memory per chip: {gib(report.peak)} of {gib(report.chip.memory)}: "
        f"{'fits' if report.fits else 'DOES NOT FIT'} "
        f"(estimate before compiling {gib(report.estimate)})",
    ]
    if program := report.program:
        out.append(
            f"  arguments {gib(program.arguments)}, temporaries {gib(program.temporaries)}; "
            f"compiled in {report.compile_seconds:.0f} s"
        )
        out += collective_lines(program)
    out.append(
        f"model FLOPs per step: {report.model_flops:.3e}, "
        f"per chip {report.model_flops_per_chip:.3e}"
    )
    return out + roofline_lines(report)


def roofline_lines(report: Report) -> list[str]:
    """The lines about FLOPs and memory traffic of the compiled step, and the bound they give."""
    bound, chip = report.roofline, report.chip
    if bound is None or report.program is None or report.program.costs is None:
        return []
    model = report.model_flops_per_chip
    out = [
        f"compiled step per chip: {bound.flops:.3e} FLOPs ({bound.flops / model:.2f} x model), "
        f"{bound.bytes / 1e9:.1f} GB through its memory",
        f"  at {chip.flops / 1e12:.0f} TFLOP/s and {chip.bandwidth / 1e9:.0f} GB/s at least "
        f"{1e3 * bound.seconds:.1f} ms: model FLOPs are at most "
        f"{100 * bound.utilisation(model, chip):.1f} % of the peak",
        "what takes longest at these rates:",
    ]
    for source, seconds in traffic.by_source(report.program.costs, chip)[:LARGEST]:
        out.append(f"  {1e3 * seconds:8.2f} ms  {source[-90:]}")
    return out


def collective_lines(program: Program) -> list[str]:
    """The lines about collective operations: totals per kind, then the largest."""
    if program.collectives is None or program.largest_collectives is None:
        return ["collectives: this jaxlib cannot print the program that this libtpu compiled"]
    out = ["collectives per step and chip:"]
    for kind, (runs, moved) in program.collectives.items():
        out.append(f"  {kind:20} {runs:5} runs {moved / 1e6:12.2f} MB")
    out.append("largest:")
    for c in program.largest_collectives:
        moved = c.count * c.size / 1e6
        out.append(f"  {c.kind:20} {c.count:5} x  {moved:12.2f} MB  {c.source[-90:]}")
    return out
