"""RDE through the commands: division and parameters on any mesh, killed and continued, embedded."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from machine import environment

from configs import rde as configs
from data_pipelines import noise
from tipr_jax import main, run_files
from tipr_jax.checkpoints import load_params, load_run_params
from tipr_jax.optim import path_name
from tipr_jax.param_tree import flatten

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]

# A run in a process of its own that ends itself in the pass over all pairs before epoch 2, after
# two batches; so the kill does not depend on time.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from data_pipelines.data_module import DataModule
from test_rde_training import make_config
from tipr_jax import main

whole = DataModule.pair_pass

def pair_pass(self, epoch, *args):
    for number, batch in enumerate(whole(self, epoch, *args)):
        if epoch == 1 and number == 2 and {signal}:
            os.kill(os.getpid(), {signal})
        yield batch

DataModule.pair_pass = pair_pass
main.run(make_config({data!r}, batch_norm={batch_norm!r}), Path({workdir!r}), "train")
"""


def make_config(root: str | Path, **model):
    config = configs.get_config("debug")
    config.data.root, config.data.cache_dir = str(root), str(Path(root).parent / "image_cache")
    config.data.generate = {}
    config.data.image_size, config.data.text_length = (32, 16), 32
    config.data.batch_size = config.eval.batch_size = 16
    config.data.last_batch = "pad"
    config.model.patch = config.model.stride = 8
    config.model.vocab_size = 49408
    config.model.update(model)
    config.schedule.num_epochs = 3
    # The published, large eps keeps Adam from blowing up the rounding of tiny gradients.
    config.optimizer.eps = 1e-3
    config.log_every_steps = 1
    config.checkpoint.every_steps = 1
    return config


@pytest.fixture(scope="module")
def noisy_root(tiny_root, tmp_path_factory) -> Path:
    """The tiny data set with a fifth of its training captions exchanged."""
    output = tmp_path_factory.mktemp("noisy") / "data"
    assert noise.main([f"--root={tiny_root}", f"--output={output}", "--rate=0.2"]) == 0
    return output


def in_a_process(root: Path, workdir: Path, batch_norm: str, signal: int) -> int:
    code = KILLED.format(
        root=str(ROOT), tests=str(ROOT / "tests"), data=str(root), workdir=str(workdir),
        signal=signal, batch_norm=batch_norm,
    )  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode in (0, -signal), result.stderr[-2000:]
    return result.returncode


@pytest.fixture(scope="module", params=["frozen", "batch"])
def run(request, noisy_root, tmp_path_factory) -> tuple[Path, str]:
    """An undisturbed run on one device: (directory, batch_norm)."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    assert in_a_process(noisy_root, workdir, request.param, 0) == 0
    return workdir, request.param


def state_of(workdir: Path) -> dict[str, np.ndarray]:
    """All of the last checkpoint: variables, and what is known of the pairs."""
    import orbax.checkpoint as ocp

    step = max(run_files.saved_steps(workdir))
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        tree = manager.restore(step, args=ocp.args.StandardRestore())
    return {path_name(path): np.asarray(value) for path, value in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize("signal", [9, 15])
def test_stopped_in_the_division_it_ends_at_the_same_bits(run, noisy_root, tmp_path, signal):
    undisturbed, batch_norm = run
    workdir = tmp_path / "run"
    per_epoch = max(run_files.saved_steps(undisturbed)) // 3
    in_a_process(noisy_root, workdir, batch_norm, signal)
    saved = max(run_files.saved_steps(workdir))
    # Saving goes on beside the division, so a kill may lose the step before it.
    assert saved == per_epoch if signal == 15 else saved in (per_epoch - 1, per_epoch)
    assert in_a_process(noisy_root, workdir, batch_norm, 0) == 0
    ours, want = state_of(workdir), state_of(undisturbed)
    assert ours.keys() == want.keys() and any("pair_clean" in key for key in want)
    for path, value in want.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


def test_eight_devices_divide_and_train_alike(run, noisy_root, tmp_path):
    undisturbed, batch_norm = run
    config = make_config(noisy_root, batch_norm=batch_norm)
    main.run(config, tmp_path / "run", "train")
    ours, want = state_of(tmp_path / "run"), state_of(undisturbed)
    for path, value in want.items():
        # Sums in another order, over some steps of Adam; opinions about pairs are equal.
        limit = 0.0 if "pair_clean" in path else 1e-4
        np.testing.assert_allclose(ours[path], value, rtol=limit, atol=limit, err_msg=path)


def test_statistics_move_in_batch_mode_alone(run):
    undisturbed, batch_norm = run
    weights = flatten(load_run_params(undisturbed, max(run_files.saved_steps(undisturbed)))[1])
    for kind in ("image", "text"):
        mean, var = (weights[f"{kind}_selection/hidden_norm/{n}"] for n in ("mean", "var"))
        assert (mean.any() or (var != 1).any()) == (batch_norm == "batch")
    shares = [row["clean_share"] for _, row in run_files.read_metrics(undisturbed) if "loss" in row]
    assert 0 < np.mean(shares) < 1


def test_evaluates_by_either_embedding_and_exports(run, noisy_root, tmp_path):
    undisturbed, batch_norm = run
    config = make_config(noisy_root, batch_norm=batch_norm)
    main.run(config, undisturbed, "export")
    exported = undisturbed / "export"
    assert "image_selection/hidden_norm/mean" in flatten(load_params(exported)[1])
    found = {}
    for kind in ("mean", "bge", "tse"):
        config = make_config(noisy_root, batch_norm=batch_norm, similarity=kind)
        config.init_from = str(exported)
        main.run(config, tmp_path / kind, "eval")
        found[kind] = json.loads((tmp_path / kind / "results.json").read_text())["t2i"]
    assert len({json.dumps(result) for result in found.values()}) == 3
    main.run(config, tmp_path / "tse", "embed")
    main.run(make_config(noisy_root), undisturbed, "embed")
    for workdir, size in ((tmp_path / "tse", 64), (undisturbed, 128)):
        with np.load(workdir / "embeddings" / "test.npz") as stored:
            assert stored["image"].shape[1] == stored["text"].shape[1] == size
            np.testing.assert_allclose(np.linalg.norm(stored["image"], axis=1), 1, rtol=1e-5)
