"""Is training the same on every mesh? One global batch, one device against all layouts.

    python scripts/check_meshes.py                  # every method, every mesh, two processes
    python scripts/check_meshes.py --method=irra --mesh=8x1 --rules=fully_sharded --processes=1

Compares the real train step on one CPU device with the same step on 8 emulated devices, and on two
processes (gloo, 4 devices each, and one device each): the loss, every gradient leaf, and the
parameters of five steps. Prints a table; exit code 1 if a bar is missed.
"""

import argparse
import importlib
import itertools
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

BARS = {"loss": 1e-5, "gradient": 1e-4, "trajectory": 1e-4}
MESHES = ("8x1", "4x2", "2x4")
# (devices of each of the two processes, mesh): in the second the model axis crosses the processes,
# so that with tensor parallelism both feed all rows.
TWO_PROCESSES = ((4, "4x2"), (1, "1x2"))
STEPS, BATCH_SIZE, NUM_PERSONS = 5, 16, 8


class MeshCase(NamedTuple):
    rules: str
    mesh: str  # "4x2": data x model
    processes: int = 1
    devices: int = 8  # of each process


def small_config(method: str, case: MeshCase) -> "ConfigDict":
    """The method's variant for this check, with all its losses, cut to seconds."""
    configs = importlib.import_module(f"configs.{method}")
    config = configs.get_config("mesh_check")
    config.data.image_size, config.data.text_length = (32, 16), 16
    config.data.batch_size = config.eval.batch_size = BATCH_SIZE
    # A large eps keeps Adam from blowing up the rounding of tiny gradients.
    published = configs.get_config().optimizer.name
    config.optimizer.update({"name": published, "eps": 1e-3, "learning_rate": 1e-3})
    config.schedule.num_epochs, config.schedule.warmup_epochs = 2, 0
    config.precision = "float32"
    config.mesh.rules = case.rules
    config.mesh.data, config.mesh.model = map(int, case.mesh.split("x"))
    return config


def run_steps(method: str, case: MeshCase) -> dict[str, Any]:
    """{"loss": [STEPS], "grad/...": first gradients, "step1/...": parameters, ...} as numpy."""
    import jax
    import numpy as np
    import optax
    from jax.experimental import multihost_utils

    from tipr_jax import experiment, sharding, trainer
    from tipr_jax.batch import synthetic_batch
    from tipr_jax.optim import path_name

    exp = experiment.build(small_config(method, case), num_persons=NUM_PERSONS)
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=10)
    optimizer = optax.chain(optax.trace(decay=0.0), optimizer)  # keeps the gradients in its state
    abstract = experiment.abstract_state(exp, optimizer)
    step = trainer.jit_train_step(exp, optimizer, abstract)
    layouts = jax.tree.map(lambda x: x.sharding, abstract)
    pairs = experiment.initial_pairs(exp, num_pairs=1)
    create = lambda weights: experiment.new_state(exp, weights, optimizer, pairs)  # noqa: E731
    state = jax.jit(create, out_shardings=layouts)(experiment.initial_params(exp))
    rows = sharding.process_rows(exp.batch_sharding, BATCH_SIZE)
    c = exp.model_config
    batch = synthetic_batch(
        BATCH_SIZE,
        c.image_size,
        c.text_length,
        vocab_size=c.vocab_size,
        num_persons=NUM_PERSONS,
        specs=exp.column_specs,
    )
    batch["valid"][-3:] = False
    batch = sharding.put_batch({k: v[rows] for k, v in batch.items()}, exp.batch_sharding)

    def flat(prefix: str, tree: Any) -> dict[str, np.ndarray]:
        whole = jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), tree)
        return {f"{prefix}/{path_name(k)}": v for k, v in jax.tree.leaves_with_path(whole)}

    out, losses = {}, []
    for number in range(1, STEPS + 1):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        if number == 1:
            out |= flat("grad", state.opt_state[0].trace)
        out |= flat(f"step{number}", state.weights)
    return out | {"loss": np.array(losses)}


def differences(ours: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """The worst relative difference of each kind in BARS."""
    import numpy as np

    def relative(key: str) -> float:
        a, b = np.float64(ours[key]), np.float64(reference[key])
        return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-6))

    loss = np.abs(ours["loss"] / reference["loss"] - 1)[0]
    return {
        "loss": float(loss),
        "gradient": max(relative(k) for k in reference if k.startswith("grad/")),
        "trajectory": max(relative(k) for k in reference if k.startswith("step")),
    }


def in_processes(method: str, layouts: list[MeshCase], directory: Path) -> list[dict[str, Any]]:
    """`run_steps` of layouts that share processes and devices, in processes of their own."""
    import numpy as np

    processes, devices = layouts[0].processes, layouts[0].devices
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={devices}",
    }
    output = directory / f"{method}_{processes}_{devices}"
    names = [f"--layout={rules},{mesh}" for rules, mesh, *_ in layouts]
    command = [sys.executable, __file__, f"--method={method}", f"--worker={output}", *names]
    if processes > 1:
        command += [f"--coordinator={address}", f"--processes={processes}"]
    running = [subprocess.Popen([*command, f"--id={i}"], env=env) for i in range(processes)]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"error: a process for {layouts} failed, exit codes {codes}")
    return [dict(np.load(f"{output}_{i}.npz")) for i in range(len(layouts))]


def worker(args: argparse.Namespace) -> None:
    """One process of `in_processes`: writes what its layouts give."""
    import jax
    import numpy as np

    from tipr_jax import distributed
    from tipr_jax.command_line import setup_process

    setup_process()
    jax.config.update("jax_default_matmul_precision", "highest")
    if args.coordinator:
        distributed.initialize(args.coordinator, args.processes, args.id, timeout=120)
    for number, text in enumerate(args.layout):
        result = run_steps(args.method, MeshCase(*text.split(",")))
        if distributed.is_writer():
            np.savez(f"{args.worker}_{number}.npz", **result)


def report(label: str, case: MeshCase, worst: dict[str, float]) -> bool:
    passed = all(worst[kind] <= bar for kind, bar in BARS.items())
    where = f"{case.processes} x {case.devices}" if case.processes > 1 else "8"
    values = "".join(f"{worst[kind]:12.1e}" for kind in BARS)
    verdict = "PASS" if passed else "FAIL"
    print(f"{label:10}{case.rules:18}{case.mesh:6}{where:>8}{values}  {verdict}", flush=True)
    return passed


def check(method: str, layouts: list[MeshCase]) -> bool:
    """Prints a line per layout; True if all pass."""
    with tempfile.TemporaryDirectory() as directory:
        one = MeshCase("data_parallel", "1x1", devices=1)
        (reference,) = in_processes(method, [one], Path(directory))
        passed = True
        for _, group in itertools.groupby(layouts, key=lambda x: (x.processes, x.devices)):
            same = list(group)
            for layout, ours in zip(same, in_processes(method, same, Path(directory)), strict=True):
                passed &= report(method, layout, differences(ours, reference))
    return passed


def main() -> None:
    from tipr_jax.models import method_names
    from tipr_jax.sharding import RULES

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", choices=method_names(), help="default: all")
    parser.add_argument("--mesh", choices=MESHES, help="of 8 devices; default: all")
    parser.add_argument("--rules", choices=sorted(RULES), help="default: all")
    parser.add_argument("--processes", type=int, choices=(1, 2), help="default: both")
    for hidden in ("--worker", "--coordinator"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--layout", action="append", help=argparse.SUPPRESS)
    parser.add_argument("--id", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    rules = [args.rules] if args.rules else list(RULES)
    layouts = []
    if args.processes != 2:
        layouts += [MeshCase(r, m) for m in ([args.mesh] if args.mesh else MESHES) for r in rules]
    if args.processes != 1:
        layouts += [MeshCase(r, m, 2, n) for n, m in TWO_PROCESSES for r in rules]
    bars = "".join(f"{f'{kind} {bar:g}':>18}" for kind, bar in BARS.items())
    print(f"bars:{bars}\n{'method':10}{'rules':18}{'mesh':6}{'devices':>8}", end="")
    print("".join(f"{kind:>12}" for kind in BARS))
    methods = [args.method] if args.method else method_names()
    sys.exit(not all([check(method, layouts) for method in methods]))


if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()
    main()
