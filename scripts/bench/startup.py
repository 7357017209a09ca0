"""Suite startup: from the start of a process to the end of its first training step.

Cold: the compilation cache is empty. Warm: another process has filled it. Data are synthetic.
"""

import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.measure import Case

SCRIPTS = Path(__file__).parents[1].resolve()
TWIN = "twin.pickle"


def cases(options: Any) -> Iterator[Case]:
    batch = options.batch[0]
    arguments = f"first_step{(options.model, batch, options.precision)}"
    with tempfile.TemporaryDirectory() as home:
        _run(arguments, home)  # fills the cache

        def cold() -> None:
            with tempfile.TemporaryDirectory() as empty:
                _run(arguments, empty)

        twins = {}
        if options.recipes:
            _save_twin(options, batch, home)
            twins = {r: lambda r=r: _run(f"first_twin_step({r!r})", home) for r in options.recipes}
        for name, call in {"cold": cold, "warm": lambda: _run(arguments, home)}.items():
            yield Case(
                "startup",
                f"start to step 1, {name}",
                rows=1,
                ours=call,
                twins=twins,
                model=options.model,
                rounds=3,
                warm_up=False,
            )


def _run(call: str, home: str) -> None:
    """A call of this module in a new process whose compilation cache lies below `home`."""
    env = os.environ | {
        "PYTHONPATH": f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}",
        "HOME": home,
        "XDG_CACHE_HOME": f"{home}/.cache",
    }
    command = [sys.executable, "-c", f"from bench import startup; startup.{call}"]
    subprocess.run(command, check=True, env=env, cwd=home)


def first_step(model: str, batch: int, precision: str) -> None:
    from bench import model_suites
    from tipr_jax import command_line, experiment

    command_line.setup_process()
    config = model_suites.load_config(model, batch, precision)
    model_suites.train_call(experiment.build(config), steps=1)()


def _save_twin(options: Any, batch: int, home: str) -> None:
    """Sizes and a batch, so that the twin's process needs PyTorch alone and no JAX."""
    from bench import model_suites
    from tipr_jax import experiment

    exp = experiment.build(model_suites.load_config(options.model, batch, options.precision))
    sizes = dataclasses.asdict(exp.model_config)
    Path(home, TWIN).write_bytes(pickle.dumps((sizes, model_suites.make_batch(exp))))


def first_twin_step(recipe: str) -> None:
    from torch_twin import Twin

    sizes, batch = pickle.loads(Path(TWIN).read_bytes())
    Twin(types.SimpleNamespace(**sizes), batch, recipe).train_call(steps=1)()
