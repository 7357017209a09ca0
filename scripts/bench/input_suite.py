"""Suite input: image files on disk to a host batch, through the training pipeline.

The twin is the PyTorch loader of scripts/torch_input.py: Pillow and torchvision's transforms, which
include the augmentation that ours leaves to the device (that script also counts CPU seconds).
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.measure import Call, Case
from bench.model_suites import load_config


def cases(options: Any) -> Iterator[Case]:
    """From the decoded cache, and decoding the files each time with tf.data."""
    import torch_input

    from data_pipelines.data_module import DataModule
    from tipr_jax.text.clip_bpe import ClipTokenizer

    config = load_config(options.model, options.batch[0], options.precision)
    data = config.data
    data.root = str(Path(tempfile.gettempdir()) / f"tipr_input{'_tiny' if options.tiny else ''}")
    data.generate = {}
    data.cache_dir = f"{data.root}/cache"
    split = torch_input.pedestrians(Path(data.root), 8 if options.tiny else 500)
    batches = 2 if options.tiny else 20  # so many that those prefetched between calls are few
    twins = _twins(options, split.image_path, data, batches)
    for name, cache in {"cache": True, "files": False}.items():
        data.cache = cache
        module = DataModule(config, ClipTokenizer())
        stream = module.train_batches(0)
        yield Case(
            "input",
            f"input ({name})",
            rows=batches * data.batch_size,
            ours=lambda stream=stream: [next(stream) for _ in range(batches)][-1],
            twins=twins,
            model=options.model,
            batch=data.batch_size,
        )


def _twins(options: Any, paths: tuple[str, ...], data: Any, batches: int) -> dict[str, Call]:
    import torch_input

    if not options.recipes:
        return {}
    if not importlib.util.find_spec("torchvision"):
        print("input: torchvision is not installed here, so only our side is measured")
        return {}
    cores = os.cpu_count() or 1
    workers = 0 if options.tiny or cores == 1 else cores
    size = tuple(data.image_size)
    call = torch_input.torch_loader_call(paths, size, data.batch_size, batches, workers)
    return {"DataLoader": call}
