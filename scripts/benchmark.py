#!/usr/bin/env python
"""Measures speed on whatever device is present; prints a table and, with --json, writes it.

  python scripts/benchmark.py                                    # all suites, quickstart model
  python scripts/benchmark.py --model=vit_b16 --batch=8 --suite=train_step,encode --vs-torch

Suites: train_step (forward, losses, backward, update), encode (both towers, no gradient), input
(image files on disk to a batch ready for the device). Each figure is the median of --rounds timed
calls after a warm-up; with --vs-torch the same work in plain PyTorch alternates with ours, and the
ratio is the median over the pairs. Machines are noisy: quote ratios.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # also runs from a checkout that is not installed

from configs import irra as irra_config
from tipr_jax import command_line, experiment, trainer
from tipr_jax.batch import synthetic_batch
from tipr_jax.evaluator import Evaluator
from tipr_jax.sharding import put_batch
from tipr_jax.train_state import create_state

Call = Callable[[], Any]


def load_config(model: str, batch: int) -> Any:
    config = irra_config.get_config("quickstart" if model == "quickstart" else "cuhk_pedes")
    config.data.batch_size = batch or config.data.batch_size
    config.eval.batch_size = config.data.batch_size
    # Both sides run the published losses, so that the twin does the same work.
    config.model.losses, config.model.learn_temperature = ("sdm", "mlm", "id"), False
    return config


def make_batch(exp: experiment.Experiment) -> dict[str, np.ndarray]:
    c = exp.model_config
    return synthetic_batch(
        exp.config.data.batch_size,
        c.image_size,
        c.text_length,
        vocab_size=c.vocab_size,
        num_persons=c.num_persons,
    )


def train_step_call(exp: experiment.Experiment) -> Call:
    optimizer, _ = experiment.make_optimizer(exp, steps_per_epoch=1000)
    abstract = experiment.abstract_state(exp, optimizer)
    step = trainer.jit_train_step(exp, optimizer, abstract)
    state = create_state(experiment.initial_params(exp), optimizer)
    batch = make_batch(exp)

    def call() -> None:
        nonlocal state
        state, metrics = step(state, put_batch(batch, exp.batch_sharding))
        jax.block_until_ready(metrics)

    return call


def encode_calls(exp: experiment.Experiment) -> dict[str, Call]:
    evaluator = Evaluator(exp, data=None)
    params = evaluator.tower_params(experiment.initial_params(exp))
    batch = put_batch(make_batch(exp), exp.batch_sharding)
    return {
        "encode image": lambda: jax.block_until_ready(
            evaluator.encode_image(params, batch["image"])
        ),
        "encode text": lambda: jax.block_until_ready(
            evaluator.encode_text(params, batch["text_ids"])
        ),
    }


def torch_calls(exp: experiment.Experiment) -> dict[str, Call]:
    """The PyTorch twin's train step and encoders, on its GPU if it sees one."""
    import torch
    from torch_twin import TorchIrra, torch_batch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = TorchIrra(exp.model_config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, eps=1e-3, weight_decay=4e-5)
    batch = torch_batch(make_batch(exp), exp.model_config, device)

    def train_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(batch).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    def no_grad(encode: Callable, x: Any) -> Call:
        def call() -> None:
            with torch.no_grad():
                encode(x)

        return call

    return {
        "train_step": train_step,
        "encode image": no_grad(model.encode_image, batch["image"]),
        "encode text": no_grad(model.encode_text, batch["text_ids"]),
    }


def input_call(exp: experiment.Experiment, cached: bool) -> Call:
    """Batches of generated image files through the training pipeline."""
    from data_pipelines.data_module import DataModule
    from tipr_jax.text.clip_bpe import ClipTokenizer

    data = exp.config.data.copy_and_resolve_references()
    data.root = str(Path(tempfile.gettempdir()) / "tipr_jax_benchmark")
    data.generate = {"train_ids": 100, "val_ids": 0, "test_ids": 10, "images_per_id": 4}
    data.cache_mb = 1024 if cached else 0
    module = DataModule(data, ClipTokenizer(), seed=0, eval_batch_size=64)
    batches = module.train_batches(0)
    return lambda: [next(batches) for _ in range(5)]


def measure(ours: Call, twin: Call | None, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of `rounds` alternating calls, after one warm-up of each."""
    times: tuple[list[float], list[float]] = ([], [])
    calls = [c for c in (ours, twin) if c]
    for call in calls:
        call()
    for _ in range(rounds):
        for call, out in zip(calls, times, strict=False):
            start = time.perf_counter()
            call()
            out.append(time.perf_counter() - start)
    return times


def row(name: str, model: str, rows_per_call: int, times: tuple[list, list]) -> dict[str, Any]:
    ours, twin = times
    out = {
        "benchmark": name,
        "model": model,
        "rows": rows_per_call,
        "ms": 1e3 * statistics.median(ours),
        "rows_per_s": rows_per_call / statistics.median(ours),
    }
    if twin:
        out["torch_ms"] = 1e3 * statistics.median(twin)
        out["speed_vs_torch"] = statistics.median(t / o for o, t in zip(ours, twin, strict=True))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="train_step,encode,input", help="comma-separated")
    parser.add_argument("--model", default="quickstart", choices=["quickstart", "vit_b16"])
    parser.add_argument("--batch", type=int, default=0, help="default: the config's batch size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vs-torch", action="store_true", help="alternate with a PyTorch twin")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    args = parser.parse_args()

    suites = set(args.suite.split(","))
    if unknown := suites - {"train_step", "encode", "input"}:
        parser.error(f"unknown suites {sorted(unknown)}; choose from train_step, encode, input")
    exp = experiment.build(load_config(args.model, args.batch))
    batch = exp.config.data.batch_size
    calls: dict[str, tuple[Call, int]] = {}
    if "train_step" in suites:
        calls["train_step"] = train_step_call(exp), batch
    if "encode" in suites:
        calls |= {name: (call, batch) for name, call in encode_calls(exp).items()}
    if "input" in suites:
        calls["input (files)"] = input_call(exp, cached=False), 5 * batch
        calls["input (cached)"] = input_call(exp, cached=True), 5 * batch
    twins = torch_calls(exp) if args.vs_torch else {}

    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform} x {jax.device_count()}), jax {jax.__version__}")
    print(
        f"{'':16}{'model':>12}{'rows':>7}{'ms':>10}{'rows/s':>10}{'torch ms':>10}{'vs torch':>10}"
    )
    rows = []
    for name, (call, count) in calls.items():
        r = row(name, args.model, count, measure(call, twins.get(name), args.rounds))
        rows.append(r)
        versus = f"{r['torch_ms']:10.1f}{r['speed_vs_torch']:9.2f}x" if "torch_ms" in r else ""
        print(
            f"{name:16}{args.model:>12}{count:7d}{r['ms']:10.1f}{r['rows_per_s']:10.1f}{versus}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps({"device": device.device_kind, "rows": rows}, indent=2))


if __name__ == "__main__":
    command_line.use_huge_pages()
    main()
