#!/usr/bin/env python
"""Measures speed on whatever device is present; prints a table and, with --json, writes it.

  python scripts/benchmark.py                                       # all suites, quickstart model
  python scripts/benchmark.py --suite=train_step,encode --model=vit_b16 --batch=8 --vs-torch
  python scripts/benchmark.py --suite=train_step --model=vit_b16 --precision=bfloat16 \\
      --batch=64,128,256,512 --vs-torch=float16,half                # on a GPU: the best batch

Suites: train_step (forward, losses, backward, update), encode (both towers, no gradient), input
(image files on disk to a host batch), streaming (SDM forward and backward without a B x B matrix,
and its temporary memory), ranking (R@k, mAP and mINP from embeddings), rerank (pairs of Bi-IRRA's
matching head, no twin), gallery (adding to, opening and searching a gallery of 200,000 vectors),
startup (process start to the end of the first step, with an empty and a filled compilation cache).

Each figure is the median of --rounds calls after a warm-up. With --vs-torch the same work in plain
PyTorch alternates with ours, call by call, and the ratio is the median over the pairs, with its
range. Machines are noisy: quote ratios. What the recipes of the twin are, and what it is charged
for, stands at the head of scripts/torch_twin.py.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # also runs from a checkout that is not installed

# Leaves the twin its share of a GPU; JAX would take three quarters of it at start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
from bench import (
    devices,
    gallery_suite,
    input_suite,
    model_suites,
    ranking,
    rerank_suite,
    startup,
    streaming,
)
from bench.measure import HEADER, Case, best_lines, line, measure

from tipr_jax import command_line, interrupt

SUITES: dict[str, Callable[[Any], Iterator[Case]]] = {
    "train_step": model_suites.train_step_cases,
    "encode": model_suites.encode_cases,
    "input": input_suite.cases,
    "streaming": streaming.cases,
    "ranking": ranking.cases,
    "rerank": rerank_suite.cases,
    "gallery": gallery_suite.cases,
    "startup": startup.cases,
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", type=_names, default=list(SUITES), help="comma-separated; default: all")
    add("--model", default="quickstart", choices=list(model_suites.VARIANTS))
    add("--batch", type=_numbers, default=[0], help="one or several; default: the config's")
    add("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    add("--rounds", type=int, default=5)
    add("--steps", type=int, default=0, help="training steps per call; default: 1 on CPU, else 10")
    add("--vs-torch", nargs="?", const="default", default="", metavar="RECIPES", type=str)
    add("--json", type=Path, help="write the rows here too")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.suite) - set(SUITES)):
        parser.error(f"unknown suites {unknown}; choose from {', '.join(SUITES)}")
    if args.rounds < 1 or args.steps < 0:
        parser.error("--rounds and --steps must be positive")
    args.tiny = args.model == "debug"  # every suite in seconds: does everything run?
    args.steps = args.steps or (1 if jax.default_backend() == "cpu" else 10)
    args.recipes = recipes(args.vs_torch)
    return args


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def recipes(given: str) -> list[str]:
    """The twin's recipes; none without --vs-torch, or (said in one line) without PyTorch."""
    if not given:
        return []
    if not importlib.util.find_spec("torch"):
        print("--vs-torch: PyTorch is not installed here, so only our side is measured")
        return []
    import torch_twin

    return torch_twin.default_recipes() if given == "default" else _names(given)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures and prints; returns what --json writes."""
    print(devices.describe())
    peak, source = devices.peak_flops()
    print(f"peak {source}\n{devices.FORMULA}\n{HEADER}")
    rows = []
    for suite in args.suite:
        try:
            for case in SUITES[suite](args):
                rows.append(measure(case, args.rounds, peak))
                print(line(rows[-1]), flush=True)
        except ModuleNotFoundError as error:
            print(f"{suite}: the rest is skipped, {error.name} is not installed here")
    print(*best_lines(rows), sep="\n")
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "device_count": jax.device_count(),
        "jax": jax.__version__,
        "peak_flops": peak,
        "peak_source": source,
        "utilisation_formula": devices.FORMULA,
        "rows": rows,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    result = run(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    interrupt.watch()
    command_line.use_huge_pages()
    main()
