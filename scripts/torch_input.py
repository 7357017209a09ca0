#!/usr/bin/env python
"""Input side by side: the official PyTorch pipeline and the decoded cache, on the same files.

  taskset -c 0 python scripts/torch_input.py      # one core
  python scripts/torch_input.py                   # all cores

From bytes on disk to a batch ready for the device, alternating in one process. The PyTorch side
decodes with Pillow and augments with torchvision, as the released IRRA does; ours copies uint8 rows
out of the cache, because augmentation is a part of the jitted step on the device. So that the two
can be compared as equal work too, a third row adds that augmentation, run on this CPU.
`scripts/benchmark.py --suite=input --vs-torch` calls `pedestrians`, `cache_call` and
`torch_loader_call`. Needs torch and torchvision.
"""

import argparse
import functools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # also runs from a checkout that is not installed

from data_pipelines.datasets.annotations import load_dataset
from data_pipelines.datasets.split import Split
from tipr_jax.preprocess.image import CLIP_MEAN, CLIP_STD

Call = Callable[[], Any]
IMAGE_SIZE = (384, 128)


def pedestrians(root: Path, people: int = 500) -> Split:
    """4 generated JPEG files per person, about 256 x 95 pixels like CUHK-PEDES; made once."""
    from data_pipelines.synth_pedes.generate import generate

    generate(root, train_ids=people, val_ids=0, test_ids=10, images_per_id=4, height=256)
    return load_dataset("cuhk_pedes", str(root))["train"]


def torch_loader_call(
    paths: Sequence[str],
    image_size: tuple[int, int],
    batch_size: int,
    batches: int,
    workers: int = 0,
) -> Call:
    """A call that takes the next `batches` batches (float32 [B,3,H,W]) of an endless DataLoader.

    Divide `batches * batch_size` by its seconds for images per second. The loader, its workers and
    their prefetched batches live as long as the call, so make a warm-up call first, of at least
    2 * workers batches. Workers are spawned, not forked: safe beside JAX, but the program needs
    the `if __name__ == "__main__"` guard.

    Args:
      paths: image files.
      image_size: (H, W).
      batch_size: images per batch.
      batches: per call.
      workers: processes; 0 decodes in the calling one (fastest on one core).

    Raises:
      ImportError: torch or torchvision is missing; say so and leave the PyTorch column empty.
    """
    from torch.utils.data import DataLoader, RandomSampler

    files: Any = Files(paths, image_size)  # PyTorch asks for __len__ and __getitem__ alone
    _torchvision_transforms()  # if it is missing, fail here and not in a worker
    loader = DataLoader(
        files,
        batch_size,
        sampler=RandomSampler(files, replacement=True, num_samples=10**9),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    stream = iter(loader)
    return lambda: [next(stream) for _ in range(batches)][-1]


class Files:
    """A map-style data set of transformed image files; each worker makes its own transform."""

    def __init__(self, paths: Sequence[str], image_size: tuple[int, int]):
        self.paths, self.image_size = paths, image_size

    @functools.cached_property
    def transform(self) -> Callable:
        return official_transform(self.image_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def official_transform(image_size: tuple[int, int]) -> Callable:
    """`build_transforms` of datasets/build.py in the release of IRRA, from torchvision."""
    T = _torchvision_transforms()
    mean, std = CLIP_MEAN.tolist(), CLIP_STD.tolist()
    return T.Compose(
        [
            T.Resize(image_size),
            T.RandomHorizontalFlip(0.5),
            T.Pad(10),
            T.RandomCrop(image_size),
            T.ToTensor(),
            T.Normalize(mean, std),
            T.RandomErasing(scale=(0.02, 0.4), value=mean),
        ]
    )


_declared: list = []  # operator declarations, undone when they are collected


def _torchvision_transforms() -> Any:
    """torchvision.transforms, which need none of torchvision's compiled operators.

    The wheels on PyPI are built for CUDA: next to a CPU build of torch those operators do not load,
    and the import stops at the two that it describes to the compiler. Declaring them lets it pass.
    """
    import torch

    try:
        from torchvision import transforms
    except RuntimeError:
        _declared.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in ("nms", "qnms"):
            arguments = "(Tensor dets, Tensor scores, float iou_threshold)"
            _declared[-1].define(f"{name}{arguments} -> Tensor")
        from torchvision import transforms
    return transforms


def cache_call(
    split: Split,
    image_size: tuple[int, int],
    batch_size: int,
    batches: int,
    cache_dir: str,
    on_host: Callable | None = None,
) -> Call:
    """A call that takes the next `batches` training batches from the decoded cache.

    The first call builds the cache. `on_host` is applied to each batch's images.
    """
    from data_pipelines.pipeline import make_train_iter

    config: Any = SimpleNamespace(
        name="cuhk_pedes",
        image_size=image_size,
        text_length=77,
        batch_size=batch_size,
        sampler="random",
        last_batch="drop",
        tfds_dir="",
        cache=True,
        cache_dir=cache_dir,
        allow_truncated=False,
        train_resize="bilinear",
        test_resize="bilinear",
    )
    tokens: Any = lambda texts, length: np.ones((len(texts), length), np.int32)  # noqa: E731
    stream = make_train_iter(split, tokens, config, seed=0)

    def call() -> None:
        for _ in range(batches):
            image = next(stream)["image"]
            if on_host:
                on_host(image)

    return call


def augment_on_host() -> Callable:
    """The augmentation of the training step, compiled for this CPU."""
    import jax

    from tipr_jax.augment.image import augment_images
    from tipr_jax.models.irra import AUGMENTATION

    jax.config.update("jax_platforms", "cpu")
    augment, key = jax.jit(augment_images, static_argnums=2), jax.random.key(0)
    return lambda image: augment(image, key, AUGMENTATION).block_until_ready()


def cpu_seconds() -> float:
    """Processor time of this process and of its live workers (Linux)."""
    pids = ["self", *(child.pid for child in multiprocessing.active_children())]
    stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(s[11]) + int(s[12]) for s in stats) / os.sysconf("SC_CLK_TCK")


def settled_cpu_seconds() -> float:
    """`cpu_seconds` once nothing prefetches any more."""
    before, now = -1.0, cpu_seconds()
    while now - before > 0.02:
        time.sleep(0.5)
        before, now = now, cpu_seconds()
    return now


def measure(calls: dict[str, tuple[Call, int]], rounds: int) -> dict[str, list]:
    """(images/s, CPU seconds per image) of each round; `calls`: name -> (call, images per call).

    Workers go on prefetching after a call. They are waited for, inside the call's CPU time but not
    its wall time: a PyTorch call starts with up to 2 * workers batches done, so its img/s flatters.
    """
    for call, _ in calls.values():
        call()
        call()
    out: dict[str, list] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, images) in calls.items():
            cpu, start = settled_cpu_seconds(), time.perf_counter()
            call()
            seconds = time.perf_counter() - start
            out[name].append((images / seconds, (settled_cpu_seconds() - cpu) / images))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "tipr_input")
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    import torch

    cores = len(os.sched_getaffinity(0))
    workers = 0 if cores == 1 else cores
    torch.set_num_threads(cores)
    split = pedestrians(args.root, args.people)
    common = (IMAGE_SIZE, args.batch)
    cache_dir = str(args.root / "cache")
    plans = {
        "torch": (
            lambda n: torch_loader_call(split.image_path, *common, n, workers),
            4 + 16 * workers,
        ),
        "cache": (lambda n: cache_call(split, *common, n, cache_dir), 200),
        "cache + augment": (
            lambda n: cache_call(split, *common, n, cache_dir, augment_on_host()),
            4,
        ),
    }
    calls = {name: (make(n), n * args.batch) for name, (make, n) in plans.items()}
    results = measure(calls, args.rounds)

    size = statistics.mean(map(os.path.getsize, split.image_path))
    vision = sys.modules["torchvision"].__version__
    print(
        f"{cores} core(s), {len(split.image_path)} JPEG files of {size:.0f} bytes on average, "
        f"batch {args.batch}, torch {torch.__version__}, {workers} workers, torchvision {vision}"
    )
    print(f"{'':18}{'img/s':>10}{'img/s/core':>12}{'CPU ms/img':>12}{'vs torch':>10}{'by CPU':>9}")
    for name, rounds in results.items():
        speed, cpu = (statistics.median(x) for x in zip(*rounds, strict=True))
        pairs = list(zip(rounds, results["torch"], strict=True))
        wall_ratio = statistics.median(o[0] / t[0] for o, t in pairs)
        cpu_ratio = statistics.median(t[1] / max(o[1], 1e-9) for o, t in pairs)
        print(
            f"{name:18}{speed:10.0f}{speed / cores:12.0f}{1e3 * cpu:12.3f}"
            f"{wall_ratio:9.2f}x{cpu_ratio:8.2f}x"
        )


if __name__ == "__main__":
    main()
