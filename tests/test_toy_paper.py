"""A fourth method, written outside of the package alone, goes through every command.

It has a config file, a choice of tokenizer, a column spec, a matching head, an epoch hook and a
batch norm of its own (tests/toy_paper). Nothing generic knows it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from machine import environment

from tipr_jax import convert, experiment, main, run_files
from tipr_jax.checkpoints import load_params, load_run_params
from tipr_jax.inference.model import load
from tipr_jax.param_tree import flatten
from tipr_jax.train_state import trained

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ENVIRONMENT = environment(PYTHONPATH=f"{TESTS}:{ROOT}")


def make_config(root: Path):
    from toy_paper.config import get_config

    config = get_config()
    config.data.root, config.data.cache_dir = str(root), str(root.parent / "image_cache")
    return config


@pytest.fixture(scope="module")
def run(tiny_root, tmp_path_factory) -> Path:
    """An undisturbed run on one device."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    command(workdir, tiny_root)
    return workdir


def arguments(workdir: Path, root: Path, *more: str) -> list[str]:
    options = [f"--config={TESTS / 'toy_paper' / 'config.py'}", f"--workdir={workdir}"]
    options += [f"--config.data.root={root}", f"--config.data.cache_dir={root.parent}/image_cache"]
    return [sys.executable, "-m", "tipr_jax.main", *options, *more]


def command(workdir: Path, root: Path, *more: str) -> str:
    result = subprocess.run(
        arguments(workdir, root, *more), env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def last_step(workdir: Path) -> int:
    path = workdir / run_files.METRICS
    return (
        max((step for step, _ in run_files.read_metrics(workdir)), default=0)
        if path.exists()
        else 0
    )


def test_trains_and_reranks(run):
    results = json.loads((run / "results.json").read_text())
    assert set(results) >= {"t2i", "i2t", "t2i_rerank", "step"}
    rows = [row for _, row in run_files.read_metrics(run)]
    assert any("itm_loss" in row for row in rows) and any("pair_loss" in row for row in rows)


def test_statistics_and_pair_weights_are_part_of_the_state(run):
    step = max(run_files.saved_steps(run))
    weights = flatten(load_run_params(run, step)[1])
    mean = weights["image_norm/mean"]
    assert np.abs(mean).max() > 0 and not np.allclose(weights["image_norm/var"], 1)


def test_killed_and_continued_it_ends_at_the_same_bits(run, tiny_root, tmp_path):
    """Killed in the middle of an epoch, whose pair weights came from parameters that are gone."""
    workdir = tmp_path / "run"
    per_epoch = max(run_files.saved_steps(run)) // 3
    process = subprocess.Popen(
        arguments(workdir, tiny_root),
        env=ENVIRONMENT,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while last_step(workdir) <= per_epoch and process.poll() is None:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    command(workdir, tiny_root)
    ours, want = (flatten(load_run_params(w, 3 * per_epoch)[1]) for w in (workdir, run))
    for path, value in want.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


def test_every_mesh_gives_the_same_run(run, tiny_root, tmp_path):
    """Pair weights, statistics and parameters of eight devices and of one."""
    config = make_config(tiny_root)
    main.run(config, tmp_path / "run", "train")
    step = max(run_files.saved_steps(run))
    ours, want = (flatten(load_run_params(w, step)[1]) for w in (tmp_path / "run", run))
    for path, value in want.items():
        # Sums in another order, over some tens of steps of Adam.
        np.testing.assert_allclose(ours[path], value, rtol=2e-3, atol=2e-4, err_msg=path)


def test_the_optimiser_sees_parameters_alone(tiny_root):
    exp = experiment.build(make_config(tiny_root))
    names = set(flatten(trained(exp.abstract)))
    assert set(flatten(exp.abstract_params)) - names == {"image_norm/mean", "image_norm/var"}
    optimizer, _ = experiment.make_optimizer(exp, 10)
    state = experiment.abstract_state(exp, optimizer, num_pairs=7)
    assert state.pairs["pair_weight"].shape == (7,)
    assert set(flatten(state.statistics)) == {"image_norm/mean", "image_norm/var"}


def test_evaluates_and_embeds(run, tiny_root, capsys):
    config = make_config(tiny_root)
    main.run(config, run, "eval")
    assert "re-ranked" in capsys.readouterr().out
    main.run(config, run, "embed")
    with np.load(run / "embeddings" / "test.npz") as found:
        np.testing.assert_allclose(np.linalg.norm(found["image"], axis=1), 1, rtol=1e-5)


def test_exports_converts_and_comes_back(run, tiny_root, tmp_path):
    config = make_config(tiny_root)
    main.run(config, run, "export")
    exported = run / "export"
    official = tmp_path / "toy.safetensors"
    method = "--method=toy_paper.weights.toy"
    convert.main([method, "--reverse", f"--input={exported}", f"--output={official}"])
    convert.main([method, f"--input={official}", f"--output={tmp_path / 'back'}"])
    ours, back = flatten(load_params(exported)[1]), flatten(load_params(tmp_path / "back")[1])
    for path, value in ours.items():
        np.testing.assert_array_equal(back[path], value, err_msg=path)
    config.init_from = str(tmp_path / "back")
    exp = experiment.build(config)
    begun = flatten(jax.device_get(experiment.initial_params(exp)))
    for path, value in ours.items():
        np.testing.assert_array_equal(begun[path], value, err_msg=path)


def test_answers_a_query(run, tiny_root):
    images = tiny_root / "CUHK-PEDES" / "imgs"
    gallery = f"--gallery={run / 'photos.gallery'}"
    add = [sys.executable, "-m", "tipr_jax.gallery", "add", str(images), f"--model={run}", gallery]
    subprocess.run(add, env=ENVIRONMENT, cwd=ROOT, check=True)
    result = subprocess.run(
        [*add[:3], "search", "a man in a red coat", "--top=3", "--rerank=5", gallery],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    shown = [line for line in result.stdout.splitlines() if str(images) in line]
    assert len(shown) == 3
    model = load(run)
    paths = [line.split()[-1] for line in shown]
    scores = [float(line.split()[1]) for line in shown]
    np.testing.assert_allclose(model.match(paths, "a man in a red coat"), scores, atol=2e-3)
