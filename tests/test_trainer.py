"""The loop: learning, resuming to the bit, stopping on request, refusing to go on with NaN."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from machine import HANGS, environment

from tipr_jax import checkpoints, experiment, optim, trainer
from tipr_jax.inference.model import load
from tipr_jax.meter import NonFiniteLoss

ROOT = Path(__file__).resolve().parents[1]


def run_arguments(config, workdir: Path, **changes) -> list[str]:
    """A command line that runs `config` (a changed debug config) in a process of its own."""
    flat = {
        "data.root": config.data.root,
        "data.image_size": tuple(config.data.image_size),
        "data.text_length": config.data.text_length,
        "data.cache_dir": config.data.cache_dir,
        "data.batch_size": config.data.batch_size,
        "eval.batch_size": config.eval.batch_size,
        "model.losses": tuple(config.model.losses),
        "model.patch": config.model.patch,
        "model.stride": config.model.stride,
        "schedule.num_epochs": config.schedule.num_epochs,
        "checkpoint.every_steps": 1,
        "log_every_steps": 1,
    } | changes
    flags = [f"--config.{k}={v}" for k, v in flat.items()]
    config_file = ROOT / "configs" / "irra.py"
    main = [sys.executable, "-m", "tipr_jax.main", f"--config={config_file}:debug"]
    return [*main, f"--workdir={workdir}", *flags]


def start(config, workdir: Path, **changes) -> subprocess.Popen:
    env, arguments = environment(), run_arguments(config, workdir, **changes)
    return subprocess.Popen(
        arguments, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def steps_done(workdir: Path) -> int:
    log = workdir / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
    return max(steps, default=0)


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
    deadline = time.time() + HANGS
    while steps_done(workdir) < step:
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.time() < deadline, f"no step {step}, it hangs"
        time.sleep(0.02)


def final_params(workdir: Path) -> dict:
    with checkpoints.Checkpoints(workdir) as c:
        last = c.latest_step()
    return checkpoints.load_run_params(workdir, last)[1]


def assert_same(a: dict, b: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_kill_and_restart_gives_the_same_parameters(tiny_config, tmp_path):
    config = tiny_config
    config.schedule.num_epochs = 4
    whole = start(config, tmp_path / "whole")
    killed = start(config, tmp_path / "killed")
    wait_for_step(killed, tmp_path / "killed", 5)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = steps_done(tmp_path / "killed")
    again = start(config, tmp_path / "killed")
    output, _ = again.communicate(timeout=HANGS)
    assert again.returncode == 0, output[-3000:]
    assert "continuing at step" in output, f"died at step {before}, did not resume:\n{output}"
    output, _ = whole.communicate(timeout=HANGS)
    assert whole.returncode == 0, output[-3000:]
    assert_same(final_params(tmp_path / "whole"), final_params(tmp_path / "killed"))
    rows = [json.loads(x) for x in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in rows if "loss" in r]
    assert steps == list(range(1, len(steps) + 1)), "a step is logged twice or missing"


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_zero(tiny_config, tmp_path):
    process = start(
        tiny_config, tmp_path, **{"schedule.num_epochs": 500, "checkpoint.every_steps": 10**6}
    )
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0, output[-3000:]
    assert "rerun to continue" in output
    with checkpoints.Checkpoints(tmp_path) as c:
        assert c.latest_step() == steps_done(tmp_path)


@pytest.fixture
def data(tiny_config):
    from data_pipelines.data_module import DataModule
    from tipr_jax.text.clip_bpe import ClipTokenizer

    return DataModule(tiny_config, ClipTokenizer())


def build(config, data):
    return experiment.build(config, num_persons=data.splits["train"].num_persons)


@pytest.mark.slow
def test_overfits_a_handful_of_pairs(tiny_config, data, tmp_path):
    config = tiny_config
    config.model.losses = ("itc",)
    config.model.augment = False
    config.optimizer.groups = ((".*", 1.0, True),)
    config.optimizer.name, config.optimizer.eps = "adamw", 1e-8
    config.optimizer.learning_rate = 2e-3
    config.model.temperature = 0.1
    config.schedule.num_epochs = 60
    config.eval.every_epochs = 60
    exp = build(config, data)
    data.splits["val"] = data.splits["test"] = data.splits["train"]
    trainer.train(exp, data, tmp_path)
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rank1 = [r["eval/test/t2i/R1"] for r in rows if "eval/test/t2i/R1" in r]
    assert rank1[-1] > 90 > rank1[0], rank1


def test_nan_names_the_term_and_the_step(tiny_config, data, tmp_path):
    tiny_config.model.itc_weight = float("nan")
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*itc_loss = nan"):
        trainer.train(build(tiny_config, data), data, tmp_path)
    with checkpoints.Checkpoints(tmp_path) as c:
        assert c.latest_step() is None


def test_checkpoint_of_another_model_is_refused(tiny_config, data, tmp_path):
    tiny_config.schedule.num_epochs = 1
    trainer.train(build(tiny_config, data), data, tmp_path)
    tiny_config.model.vision_depth = 2
    with pytest.raises(ValueError, match="holds another model .*image_encoder/blocks"):
        trainer.train(build(tiny_config, data), data, tmp_path)


def test_select_on_a_split_that_is_not_there(tiny_config, data, tmp_path):
    tiny_config.eval.select_on = "validation"
    with pytest.raises(ValueError, match="eval.select_on is 'validation'"):
        trainer.train(build(tiny_config, data), data, tmp_path)


def test_run_can_be_loaded_and_used(tiny_config, data, tmp_path):
    exp = build(tiny_config, data)
    trainer.train(exp, data, tmp_path)
    model = load(tmp_path)
    assert model.embed_texts(["a man in a red coat"]).shape == (1, 64)
    assert model.embed_images(data.splits["test"].image_path[:3]).shape == (3, 64)


# The loop around a step that costs nothing


class Loop:
    """Trains with a step that only counts; `on_step(step)` may act, and returns the loss."""

    def __init__(self, monkeypatch):
        self.seen: list[list[int]] = []  # image ids of every step
        self.evaluated: list[int] = []
        self.on_step = lambda step: 0.0
        self.on_evaluation = lambda step: None
        monkeypatch.setattr(trainer, "jit_train_step", lambda *_: self._step)
        monkeypatch.setattr(trainer, "evaluate", self._evaluate)

    def _step(self, state, batch):
        self.seen.append(np.asarray(batch["image_id"]).tolist())
        step = int(state.step) + 1
        place = state.step.sharding
        state = state.replace(step=jax.device_put(jnp.int32(step), place))
        return state, {"loss": jnp.float32(self.on_step(step))}

    def _evaluate(self, evaluator, state, writer, step):
        self.evaluated.append(step)
        self.on_evaluation(step)
        return {"eval/test/t2i/R1": 50.0}


@pytest.fixture
def loop(monkeypatch, tiny_config):
    tiny_config.model.losses = ("itc",)
    return Loop(monkeypatch)


def saved_steps(workdir: Path) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def stop(*_) -> float:
    os.kill(os.getpid(), signal.SIGTERM)
    return 0.0


@pytest.mark.slow
def test_another_mesh_continues_in_the_same_order(loop, tiny_config, data, tmp_path):
    trainer.train(build(tiny_config, data), data, tmp_path / "whole")
    whole, loop.seen = loop.seen, []
    loop.on_step = lambda step: stop() if step == 3 else 0.0
    with pytest.raises(SystemExit) as exit_code:
        trainer.train(build(tiny_config, data), data, tmp_path / "cut")
    assert exit_code.value.code == 0 and saved_steps(tmp_path / "cut") == [3]
    tiny_config.mesh.update({"data": 2, "model": 4, "rules": "tensor_parallel"})
    loop.on_step = lambda step: 0.0
    trainer.train(build(tiny_config, data), data, tmp_path / "cut")
    assert loop.seen == whole and len(whole) > 6


def test_a_state_after_a_nan_is_never_saved(loop, tiny_config, data, tmp_path):
    tiny_config.checkpoint.every_steps = 1
    loop.on_step = lambda step: float("nan") if step == 3 else 0.0
    with pytest.raises(NonFiniteLoss, match="step 3: loss = nan"):
        trainer.train(build(tiny_config, data), data, tmp_path)
    assert saved_steps(tmp_path) == [1, 2]


def test_an_interrupted_evaluation_is_made_up(loop, tiny_config, data, tmp_path):
    def interrupt(step):
        if step:
            raise trainer.Interrupted

    loop.on_evaluation = interrupt
    with pytest.raises(SystemExit):
        trainer.train(build(tiny_config, data), data, tmp_path)
    (step,) = saved_steps(tmp_path)
    loop.on_evaluation = lambda step: None
    trainer.train(build(tiny_config, data), data, tmp_path)
    assert loop.evaluated == [0, step, step, 2 * step]
    with checkpoints.Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.best_step() == step  # of equals the earliest


def test_out_of_memory_says_what_to_change(loop, tiny_config, data, tmp_path):
    def exhausted(step):
        if step == 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9G")
        return 0.0

    tiny_config.checkpoint.every_steps = 1
    loop.on_step = exhausted
    with pytest.raises(trainer.OutOfMemory) as caught:
        trainer.train(build(tiny_config, data), data, tmp_path)
    message = str(caught.value)
    assert "data.batch_size 16" in message and "\n" not in message
    for change in ("data.batch_size", "micro_batches", "remat", "mesh.rules=fully_sharded"):
        assert f"--config.{change}" in message
    assert saved_steps(tmp_path) == [1, 2]


def test_logged_rates(loop, tiny_config, data, tmp_path):
    tiny_config.log_every_steps = 2
    loop.on_step = lambda step: time.sleep(0.02) or 0.0
    trainer.train(build(tiny_config, data), data, tmp_path)
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    schedule, rate = tiny_config.schedule, tiny_config.optimizer.learning_rate
    per_epoch = data.steps_per_epoch
    assert [row["step"] for row in rows] == list(range(2, 2 * per_epoch + 1, 2))
    for row in rows:
        epoch = (row["step"] - 1) // per_epoch
        assert row["learning_rate"] == pytest.approx(optim.learning_rate(schedule, epoch, rate))
        # Twice the rate of the pauses: the last step is read as soon as it is dispatched.
        assert 0 <= row["input_wait"] < 1 and 0 < row["images_per_second"] < 2 * 16 / 0.02


def test_a_learned_temperature_is_not_decayed(tiny_config, data):
    tiny_config.model.learn_temperature = True
    exp = build(tiny_config, data)
    params = jax.eval_shape(exp.init, exp.keys[0])
    groups = optim.parameter_groups(params, tuple(tiny_config.optimizer.groups), params | {
        "classifier": {"bias": 0, "kernel": 0}, "fusion": {"blocks": {"kernel": 0}},
    })  # fmt: skip
    assert groups.decay["logit_scale"] is False
    experiment.make_optimizer(exp, steps_per_epoch=1)
