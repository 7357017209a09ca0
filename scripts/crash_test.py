"""Does a run survive being killed? SIGKILL at random moments, restarted until it is done.

    python scripts/crash_test.py --kills=20

A tiny run on generated data is killed in steps, in saves and in evaluations; its final parameters
must equal those of an undisturbed run bit for bit. Prints a line per kill; exit code 1 on FAIL.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STEPS_PER_EPOCH, BATCH_SIZE = 4, 16  # 8 persons x 4 images x 2 captions
KINDS = ("step", "save", "evaluation")


def start(root: Path, workdir: Path, epochs: int) -> subprocess.Popen:
    """The debug config, cut further; saves and logs every step, evaluates every epoch."""
    changes = {
        "data.root": root,
        "data.image_size": "(32,16)",
        "data.text_length": 16,
        "model.patch": 8,
        "model.stride": 8,
        "model.losses": "('sdm','itc')",
        "schedule.num_epochs": epochs,
        "eval.batch_size": 8,
        "log_every_steps": 1,
        "checkpoint.every_steps": 2,
    }
    command = [sys.executable, "-m", "tipr_jax.main", "--config=configs/irra.py:debug"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in changes.items())]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


def rows(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def steps_done(workdir: Path) -> int:
    return max((row["step"] for row in rows(workdir)), default=0)


def trained_since(workdir: Path, began: float) -> bool:
    return any(row["time"] > began and "loss" in row for row in rows(workdir))


def activity(workdir: Path, began: float, epochs: int) -> str:
    """What the run in `workdir`, started at time `began`, is in the middle of."""
    if any("tmp" in path.name for path in (workdir / "checkpoints").glob("*")):
        return "save"
    fresh = [row for row in rows(workdir) if row["time"] > began]
    if not fresh:
        return "start"
    last = fresh[-1]
    if "loss" in last and last["step"] % STEPS_PER_EPOCH == 0:
        return "evaluation"
    return "end" if last["step"] == epochs * STEPS_PER_EPOCH else "step"


def kill_at_random(process: subprocess.Popen, workdir: Path, epochs: int) -> str:
    """Kills the process up to three seconds after its first step; returns what it was doing."""
    began, deadline = time.time(), None
    while deadline is None or time.time() < deadline:
        if process.poll() is not None:
            raise SystemExit("error: the run ended by itself; give it more epochs than kills")
        if deadline is None and trained_since(workdir, began):
            deadline = time.time() + random.uniform(0, 3)
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return activity(workdir, began, epochs)


def run_to_end(root: Path, workdir: Path, epochs: int) -> None:
    process = start(root, workdir, epochs)
    if process.wait():
        log = workdir.parent / f"{workdir.name}.log"
        raise SystemExit(f"error: the run failed\n{log.read_text()[-3000:]}")


def final_state(workdir: Path) -> tuple[int, dict]:
    from tipr_jax import checkpoints

    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        step = saved.latest_step()
    return checkpoints.load_run_params(workdir, step)


def same(a: Path, b: Path) -> bool:
    """True if two runs ended at the same step with bitwise equal parameters."""
    import jax
    import numpy as np

    (step_a, params_a), (step_b, params_b) = final_state(a), final_state(b)
    equal = jax.tree.map(lambda x, y: np.array_equal(x, y), params_a, params_b)
    return step_a == step_b and all(jax.tree.leaves(equal))


def crash(root: Path, workdir: Path, kills: int, epochs: int) -> dict[str, int]:
    """Kills `kills` times; returns how often in which activity."""
    total, counts = epochs * STEPS_PER_EPOCH, {}
    for number in range(1, kills + 1):
        doing = kill_at_random(start(root, workdir, epochs), workdir, epochs)
        counts[doing] = counts.get(doing, 0) + 1
        done = steps_done(workdir)
        print(f"kill {number:2}: after step {done:4} of {total}, in: {doing}", flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    random.seed(args.seed)
    epochs = 8 * args.kills
    with tempfile.TemporaryDirectory() as directory:
        root, whole, killed = (Path(directory) / name for name in ("data", "whole", "killed"))
        run_to_end(root, whole, epochs)
        counts = crash(root, killed, args.kills, epochs)
        run_to_end(root, killed, epochs)
        equal = same(whole, killed)
    shown = ", ".join(f"{count} in {kind}" for kind, count in sorted(counts.items()))
    enough = args.kills < 3 or all(counts.get(kind) for kind in KINDS)
    print(f"{args.kills} kills ({shown}); final parameters {'equal' if equal else 'DIFFER'}")
    print("PASS" if equal and enough else "FAIL")
    sys.exit(not (equal and enough))


if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()
    main()
